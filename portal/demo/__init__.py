"""The demo: fleets to look at, people who can sign in, simulated machines, and the server, started together.

`plan` says what there is, `seeding` puts it in the database, `logins` keeps the people's passwords, `folders` writes
what the simulator needs, `programs` starts and ends the machines and the server. Nothing else of the
project imports this package.
"""
