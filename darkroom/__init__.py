"""Darkroom develops private machine images.

Read `model`, then `upload`. The modules, from the bytes outward:

    crypto chunks packs manifest    how bytes are sealed, deduplicated and laid out in objects
    store keys catalog              the three systems that keep objects, key-encryption keys and rows
    sources formats qemu nbd        any disk image file as the guest-visible bytes of a disk, read safely
    upload download                 a disk into the store, and back
    creation                        an image of any number of disks, from any origin
    importing exporting check collect    what the tasks of the flows call, one function each

Nothing here imports Prefect.
"""
