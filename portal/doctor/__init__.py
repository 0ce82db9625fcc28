"""`manage.py doctor`: says in words what is wrong with a deployment. Looks only, and changes nothing anywhere."""
