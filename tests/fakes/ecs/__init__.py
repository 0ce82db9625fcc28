"""AWS' ECS of one's own, as strict as AWS: real HTTP, signatures verified, botocore's model both ways, real guacd.

    with FakeEcs() as ecs:
        ecs.will(Answer.THROTTLED, "RunTask", times=2)     # what calls get
        ecs.lives(Life(pending_s=FOR_EVER))                # what becomes of tasks
        ...                                                # with ecs.surroundings in the environment
        assert ecs.alive() == [] and ecs.refused == []

`python -m tests.fakes.ecs` runs it in a process of its own, for trying things by hand. Not as AWS: there is one
cluster with one task definition of one container (of two with `tunnel=True`, where a real join.py runs beside guacd),
one computer, and no permissions but those a test takes away.
"""

from tests.fakes.ecs.plans import FOR_EVER, Answer, Life
from tests.fakes.ecs.server import Call, FakeEcs
from tests.fakes.ecs.tasks import Task

__all__ = ["FOR_EVER", "Answer", "Call", "FakeEcs", "Life", "Task"]
