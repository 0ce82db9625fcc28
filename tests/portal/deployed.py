"""A whole deployment at AWS, as far as moto goes: what `manage.py doctor` looks at."""

from __future__ import annotations

import json
from typing import Any

from pytest_django.fixtures import Settings

REGION = "eu-west-1"
ACCOUNT = "123456789012"
TOPIC = f"arn:aws:sns:{REGION}:{ACCOUNT}:portafilter"
ORIGIN = "https://help.example.com"


class Deployed:
    """A deployment in moto with which nothing is wrong, and its settings."""

    def __init__(self, url: str) -> None:
        import boto3

        self.url = url
        self._clients: dict[str, Any] = {}
        self._boto3 = boto3
        ec2, ecs, sns, sqs, events = (self.client(name) for name in ("ec2", "ecs", "sns", "sqs", "events"))
        self.vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
        self.subnets = [self.subnet(number, "ab"[number]) for number in (0, 1)]
        self.group = self.security_group("gateways", self.vpc, "10.0.0.0/16")
        scaling = f"arn:aws:autoscaling:{REGION}:{ACCOUNT}:autoScalingGroup:x:autoScalingGroupName/g"
        ecs.create_capacity_provider(
            name="gateways",
            autoScalingGroupProvider={
                "autoScalingGroupArn": scaling,
                "managedScaling": {"status": "ENABLED", "targetCapacity": 100},
            },
        )
        ecs.create_cluster(clusterName="portafilter", capacityProviders=["gateways"])
        image = ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
        instance = ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1)["Instances"][0]["InstanceId"]
        document = json.dumps({"instanceId": instance, "region": REGION, "accountId": ACCOUNT})
        ecs.register_container_instance(cluster="portafilter", instanceIdentityDocument=document)
        self.register("gateway")
        sns.create_topic(Name="portafilter", Attributes={"SignatureVersion": "2"})
        sns.set_topic_attributes(TopicArn=TOPIC, AttributeName="SignatureVersion", AttributeValue="2")
        sns.subscribe(TopicArn=TOPIC, Protocol="https", Endpoint=f"{ORIGIN}/hooks/sns/")
        self.queue = self.new_queue("events")
        events.put_rule(Name="gateways", EventPattern='{"source": ["aws.ecs"]}')
        events.put_targets(Rule="gateways", Targets=[{"Id": "1", "Arn": f"arn:aws:sqs:{REGION}:{ACCOUNT}:events"}])
        sqs.create_queue(QueueName="nobodys")
        self.client("iot").create_thing_type(thingTypeName="portafilter-machine")

    def client(self, name: str) -> Any:
        if name not in self._clients:
            self._clients[name] = self._boto3.client(name, region_name=REGION)
        return self._clients[name]

    def subnet(self, number: int, zone: str, size: int = 24) -> str:
        created = self.client("ec2").create_subnet(
            VpcId=self.vpc, CidrBlock=f"10.0.{number}.0/{size}", AvailabilityZone=f"{REGION}{zone}"
        )
        return str(created["Subnet"]["SubnetId"])

    def security_group(self, name: str, vpc: str, source: str) -> str:
        ec2 = self.client("ec2")
        group = ec2.create_security_group(GroupName=name, Description=name, VpcId=vpc)["GroupId"]
        rule = {"IpProtocol": "tcp", "FromPort": 4822, "ToPort": 4823, "IpRanges": [{"CidrIp": source}]}
        ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[rule])
        return str(group)

    def register(self, family: str, *, guacd: str = "guacamole/guacd:1.6.0", **changes: Any) -> str:
        openvpn: dict[str, Any] = {
            "name": "openvpn",
            "image": "portafilter-gateway:1",
            "memory": 64,
            "linuxParameters": {
                "capabilities": {"add": ["NET_ADMIN"]},
                "devices": [{"hostPath": "/dev/net/tun", "containerPath": "/dev/net/tun"}],
            },
        }
        openvpn.update(changes.pop("openvpn", {}))
        about: dict[str, Any] = {"networkMode": "awsvpc", "requiresCompatibilities": ["EC2"], **changes}
        containers = [openvpn, {"name": "guacd", "image": guacd, "memory": 256}]
        self.client("ecs").register_task_definition(family=family, containerDefinitions=containers, **about)
        return family

    def new_queue(self, name: str) -> str:
        statement = {
            "Effect": "Allow",
            "Principal": {"Service": "events.amazonaws.com"},
            "Action": "sqs:SendMessage",
            "Resource": "*",
        }
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        self.client("sqs").create_queue(QueueName=name, Attributes={"Policy": policy})
        return f"http://sqs.{REGION}.amazonaws.com/{ACCOUNT}/{name}"

    def choose(self, settings: Settings) -> None:
        settings.GATEWAY, settings.AWS_REGION, settings.INSTALLATION = "ecs", REGION, "tests"
        settings.ECS_CLUSTER, settings.ECS_TASK_DEFINITION = "portafilter", "gateway"
        settings.ECS_SUBNETS, settings.ECS_SECURITY_GROUPS = list(self.subnets), [self.group]
        settings.ECS_CAPACITY_PROVIDER, settings.ECS_NETWORK = "gateways", "tunnel"
        settings.ECS_EVENTS_QUEUE = self.queue
        settings.NOTIFY_VIA, settings.NOTIFY_SNS_TOPIC = "sns", TOPIC
        settings.PUBLIC_ORIGINS = [ORIGIN]
        settings.TELEMETRY, settings.IOT_THING_TYPE = "iot_core", "portafilter-machine"
