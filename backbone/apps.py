"""How traffic reaches the portal and the VPN through AWS' own network, and what deploys it all there."""

from django.apps import AppConfig


class BackboneConfig(AppConfig):
    name = "backbone"
    verbose_name = "AWS"
