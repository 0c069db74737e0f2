"""How a node gets an image, or says why it does not."""

from typing import TYPE_CHECKING

from tests.support.kubernetes_api.container import Container
from tests.support.kubernetes_api.images import REFERENCE, Image

if TYPE_CHECKING:
    from tests.support.kubernetes_api.life import PodLife

PULLING_SECONDS = 0.05
BACK_OFF_SECONDS = 0.5


def pull(life: "PodLife", container: Container) -> Image:
    """The container's image, once it is there; until then the pod's status says what keeps it."""
    name = container.spec["image"]
    life.event("Normal", "Pulling", f'Pulling image "{name}"', container)
    life.pause(PULLING_SECONDS)
    tries = 0
    while True:
        image = life.cluster.image(name)
        if image and not life.pull_error:
            life.event("Normal", "Pulled", f'Successfully pulled image "{name}" in {PULLING_SECONDS}s', container)
            return image
        missing = f'failed to pull and unpack image "{name}": failed to resolve reference "{name}": {name}: not found'
        _tell(life, container, life.pull_error or missing, tries)
        tries += 1
        life.pause(BACK_OFF_SECONDS)


def _tell(life: "PodLife", container: Container, why: str, tries: int) -> None:
    name = container.spec["image"]
    if not REFERENCE.fullmatch(name):
        container.wait_for("InvalidImageName", f'Failed to apply default image tag "{name}": couldn\'t parse image name')
    elif container.spec["imagePullPolicy"] == "Never":
        container.wait_for("ErrImageNeverPull", f'Container image "{name}" is not present with pull policy of Never')
    elif tries % 2 == 0:
        container.wait_for("ErrImagePull", why)
        life.event("Warning", "Failed", f'Failed to pull image "{name}": {why}', container)
    else:
        container.wait_for("ImagePullBackOff", f'Back-off pulling image "{name}": ErrImagePull: {why}')
        life.event("Normal", "BackOff", f'Back-off pulling image "{name}"', container)
    life.publish()
