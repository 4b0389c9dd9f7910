"""Pin images by digest, and look at each for every platform that is published."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from composeapps import images
from composeapps.errors import ConfigError
from composeapps.images import Image
from composeapps.oci import Platform, Reference
from composeapps.publish.content import Content, Say
from composeapps.publish.sealing import Sealer
from composeapps.release import Size


@dataclass(frozen=True)
class Survey:
    """Images of one app, walked for every platform."""

    images: Mapping[Platform, tuple[Image, ...]]

    def blobs(self) -> dict[str, tuple[Reference, Image]]:
        """Return an image that has it for every digest of documents and layers."""
        found = {}
        for image in self.all():
            for item in (*image.documents, *image.manifest.layers):
                found[item.digest] = (image.reference, image)
        return found

    def all(self) -> Iterable[Image]:
        """Yield every image for every platform."""
        for several in self.images.values():
            yield from several


def pin(named: Mapping[str, str], content: Content, say: Say) -> dict[str, str]:
    """Return ``registry/repository@digest`` for each service's image.

    Args:
        named: image by service, as the Compose files name it.

    Raises:
        ConfigError: a name is none, or nobody has the image.
        SourceError: a registry did not answer.
    """
    pins: dict[str, str] = {}
    for text in sorted(set(named.values())):
        reference = Reference.parse(text)
        pinned = reference.pinned(reference.digest or content.resolve(reference))
        say(f"image {text} is {pinned}")
        pins[text] = pinned
    return {service: pins[text] for service, text in named.items()}


def survey(pinned: Iterable[str], platforms: Sequence[Platform], content: Content) -> Survey:
    """Walk every image for every platform; raises what ``images.walk`` raises."""
    references = [Reference.parse(text) for text in sorted(set(pinned))]
    return Survey(
        {
            platform: tuple(
                images.walk(reference, platform, content.read) for reference in references
            )
            for platform in platforms
        }
    )


def common_platforms(pinned: Iterable[str], content: Content) -> list[Platform]:
    """Return the Linux platforms that all images are made for.

    Raises:
        ConfigError: there is none.
    """
    offered = [
        set(images.platforms(Reference.parse(text), content.read)) for text in sorted(set(pinned))
    ]
    common = set.intersection(*offered) if offered else set()
    found = sorted((item for item in common if item.os == "linux"), key=str)
    if not found:
        raise ConfigError("the app's images have no Linux platform in common")
    return found


def measure(surveyed: Survey, sealer: Sealer, content: Content, extra: int) -> dict[str, Size]:
    """Seal every layer and return what a device downloads and stores, per platform.

    Args:
        extra: bytes of the app artifact, which are downloaded and stored too.

    Raises:
        SealError: a layer cannot be sealed exactly.
        SourceError, IntegrityError: a layer could not be had.
    """
    sizes = {}
    for platform, several in surveyed.images.items():
        download: dict[str, int] = {}
        flash: dict[str, int] = {}
        for image in several:
            small = {item.digest: item.size for item in image.documents}
            download |= small | {item.digest: item.size for item in image.manifest.layers}
            flash |= small
            for layer in sealer.seal(image, content):
                flash[layer.path.name] = layer.path.stat().st_size
        sizes[str(platform)] = Size(sum(download.values()) + extra, sum(flash.values()) + extra)
    return sizes
