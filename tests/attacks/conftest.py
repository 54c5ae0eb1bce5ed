"""What is attacked: the services of the integration tests."""

from tests.integration.service.conftest import registry, start_service

__all__ = ["registry", "start_service"]
