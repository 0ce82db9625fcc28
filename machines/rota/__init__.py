"""Who is on duty, computed: no rows, no Django, no clock of its own.

wall.py turns what clocks on walls show into moments, spans.py adds and subtracts stretches of time, weekly.py repeats
them week by week, duty.py says who is to be asked, in which order, and from when somebody will be there.
"""
