"""What cfn-lint does not know about the edge: whose address is seen, what is cached, and who gets in beside."""

from __future__ import annotations

from typing import Any

import pytest

from tests.backbone.templates import of_type, template

STACK = "edge"


def groups() -> dict[str, dict[str, Any]]:
    return of_type(STACK, "GlobalAccelerator::EndpointGroup")


def text_of(value: Any) -> str:
    return repr(value)


def test_every_listener_leads_somewhere_and_keeps_the_clients_address() -> None:
    listeners = of_type(STACK, "GlobalAccelerator::Listener")
    assert {one["ListenerArn"]["Ref"] for one in groups().values()} == set(listeners)
    for name, group in groups().items():
        for endpoint in group["EndpointConfigurations"]:
            assert endpoint["ClientIPPreservationEnabled"] is True, name  # T13


def test_vpn_comes_in_over_udp_and_over_the_port_that_is_open_everywhere() -> None:
    listeners = of_type(STACK, "GlobalAccelerator::Listener").values()
    of_vpn = {
        (one["Protocol"], ports["FromPort"], ports["ToPort"])
        for one in listeners
        if one["AcceleratorArn"] == {"Ref": "VpnAccelerator"}
        for ports in one["PortRanges"]
    }
    assert of_vpn == {("UDP", 1194, 1194), ("TCP", 443, 443)}
    vpn_groups = [one for name, one in groups().items() if name.startswith("Vpn")]
    assert {one["EndpointConfigurations"][0]["EndpointId"]["Ref"] for one in vpn_groups} == {"VpnLoadBalancerArn"}


def test_no_accelerator_has_two_listeners_for_one_port() -> None:
    taken = [
        (one["AcceleratorArn"]["Ref"], one["Protocol"], ports["FromPort"])
        for one in of_type(STACK, "GlobalAccelerator::Listener").values()
        for ports in one["PortRanges"]
    ]
    assert len(set(taken)) == len(taken)


def test_deployment_does_not_turn_dials_back() -> None:
    assert all("TrafficDialPercentage" not in one for one in groups().values())


def test_accelerators_have_the_names_that_the_portal_looks_for() -> None:
    names = [one["Name"] for one in of_type(STACK, "GlobalAccelerator::Accelerator").values()]
    assert names == [{"Ref": "Name"}, {"Fn::Sub": "${Name}-portal"}]
    app = text_of(template("app"))
    assert "'Fn::Sub': '${Name},${Name}-portal'" in app


def test_way_to_the_portal_can_be_changed_under_its_name() -> None:
    """CloudFormation makes the new record first, and Route 53 takes one of a name and type."""
    records = of_type(STACK, "Route53::RecordSet")
    names = [(one["Name"]["Ref"], one["Type"]) for one in records.values()]
    assert len(set(names)) == len(names) and ("PortalHostName", "A") in names
    condition, cloudfront, accelerator = records["PortalRecord"]["AliasTarget"]["Fn::If"]
    assert condition == "ByCloudFront"
    assert cloudfront["DNSName"] == {"Fn::GetAtt": ["Distribution", "DomainName"]}
    assert accelerator["DNSName"] == {"Fn::GetAtt": ["PortalAccelerator", "DnsName"]}
    assert accelerator["HostedZoneId"] == records["VpnRecord"]["AliasTarget"]["HostedZoneId"]


def test_cloudfront_keeps_nothing_but_static_files_and_passes_everything_on() -> None:
    (distribution,) = of_type(STACK, "CloudFront::Distribution").values()
    config = distribution["DistributionConfig"]
    disabled, optimized = "4135ea2d-6df8-44a3-9df3-4b5a84be39ad", "658327ea-f89d-4fab-a63d-7e88639e58f6"
    default, cached = config["DefaultCacheBehavior"], config["CacheBehaviors"]
    assert default["CachePolicyId"] == disabled and len(default["AllowedMethods"]) == 7
    assert [(one["PathPattern"], one["CachePolicyId"]) for one in cached] == [("/static/*", optimized)]
    for behaviour in (default, *cached):
        # Host with it, by which the load balancer's certificate and the portal know what is meant.
        assert behaviour["OriginRequestPolicyId"] == "216adef6-5c7f-47e4-b989-5492eafa07d3"
        assert behaviour["ViewerProtocolPolicy"] == "redirect-to-https"
        assert behaviour["FunctionAssociations"][0]["EventType"] == "viewer-request"
    assert config["Origins"][0]["CustomOriginConfig"]["OriginProtocolPolicy"] == "https-only"


def test_nobody_comes_beside_cloudfront() -> None:
    (distribution,) = of_type(STACK, "CloudFront::Distribution").values()
    (header,) = distribution["DistributionConfig"]["Origins"][0]["OriginCustomHeaders"]
    (firewall,) = of_type(STACK, "WAFv2::WebACL").values()
    first = firewall["Rules"][0]["Fn::If"][1]
    assert first["Priority"] == 0 and "Block" in first["Action"]
    assert text_of(header["HeaderValue"]) in text_of(first["Statement"])
    assert "'Name': 'x-origin-secret'" in text_of(first["Statement"]) and header["HeaderName"] == "X-Origin-Secret"
    # It is refused before it is said, or the portal would be away for a while.
    assert template(STACK)["Resources"]["Distribution"]["DependsOn"] == ["FirewallAtLoadBalancer"]
    (association,) = of_type(STACK, "WAFv2::WebACLAssociation").values()
    assert association["ResourceArn"] == {"Ref": "LoadBalancerArn"}


def test_rotating_the_secret_reaches_both_who_says_it_and_who_asks_for_it() -> None:
    """CloudFormation reads a secret anew only for resources whose own text changes."""
    (distribution,) = of_type(STACK, "CloudFront::Distribution").values()
    assert distribution["DistributionConfig"]["Comment"]["Fn::If"][0] == "AcceptsPrevious"
    (firewall,) = of_type(STACK, "WAFv2::WebACL").values()
    accepted = firewall["Rules"][0]["Fn::If"][1]["Statement"]["NotStatement"]["Statement"]["Fn::If"]
    assert accepted[0] == "AcceptsPrevious"
    assert "AWSPREVIOUS" in text_of(accepted[1]) and "AWSPREVIOUS" not in text_of(accepted[2])


def test_machines_that_enrol_need_not_say_what_program_they_are() -> None:
    (firewall,) = of_type(STACK, "WAFv2::WebACL").values()
    common = next(one for one in firewall["Rules"] if one.get("Name") == "common-attacks")["Statement"]
    counted = common["ManagedRuleGroupStatement"]["RuleActionOverrides"]
    assert {"Name": "NoUserAgent_HEADER", "ActionToUse": {"Count": {}}} in counted


@pytest.mark.parametrize(
    "rule",
    ["CrossSiteScripting_BODY", "GenericRFI_BODY", "GenericLFI_BODY", "EC2MetaDataSSRF_BODY",
     "RestrictedExtensions_QUERYARGUMENTS"],
)  # fmt: skip
def test_people_may_write_and_look_for_whatever_words_they_have(rule: str) -> None:
    (firewall,) = of_type(STACK, "WAFv2::WebACL").values()
    common = next(one for one in firewall["Rules"] if one.get("Name") == "common-attacks")["Statement"]
    counted = common["ManagedRuleGroupStatement"]["RuleActionOverrides"]
    assert {"Name": rule, "ActionToUse": {"Count": {}}} in counted


def test_limit_counts_whom_the_function_names_and_nobody_else() -> None:
    (firewall,) = of_type(STACK, "WAFv2::WebACL").values()
    limit = next(one for one in firewall["Rules"] if one.get("Name") == "not-too-many")["Statement"][
        "RateBasedStatement"
    ]
    assert limit["AggregateKeyType"] == {"Fn::If": ["ByCloudFront", "FORWARDED_IP", "IP"]}
    assert limit["ForwardedIPConfig"]["Fn::If"][1]["HeaderName"].lower() == "x-viewer-address"
    (function,) = of_type(STACK, "CloudFront::Function").values()
    assert 'headers["x-viewer-address"] = { value: event.viewer.ip }' in function["FunctionCode"]


def test_secrets_are_in_no_log_no_output_and_no_parameter() -> None:
    (logging,) = of_type(STACK, "WAFv2::LoggingConfiguration").values()
    redacted = {one["SingleHeader"]["Name"] for one in logging["RedactedFields"]}
    assert redacted >= {"cookie", "authorization", "x-csrftoken", "x-origin-secret"}
    assert "OriginSecret" not in text_of(template(STACK)["Outputs"])
    assert not [name for name in template(STACK)["Parameters"] if name.endswith("Secret") and "Accept" not in name]


@pytest.mark.parametrize("output", ["AcceleratorArn", "AcceleratorDnsName", "VpnHostName", "PortalHostName"])
def test_what_other_stacks_take_is_an_output(output: str) -> None:
    assert output in template(STACK)["Outputs"]
