"""All kinds of attack by name. A new one is a function from a random generator to an `Attack`, in a file here."""

from tests.hostile.case import Kind
from tests.hostile.kinds import arguments, caches, files, models, pictures, places, settings, weights

KINDS: dict[str, Kind] = {
    **arguments.KINDS,
    **settings.KINDS,
    **pictures.KINDS,
    **models.KINDS,
    **weights.KINDS,
    **caches.KINDS,
    **files.KINDS,
    **places.KINDS,
}
SLOW = ("planted modules",)  # each case is a process of its own
