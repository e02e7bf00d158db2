"""Darkroom develops private machine images.

Read `model`, then `upload`. The modules, from the bytes outward:

    model errors printable units settings buffers               words, values and errors that all use
    crypto chunks packs manifest content                        how bytes are sealed, deduplicated and laid out
    store keys catalog schema systems                           the systems that keep objects, KEKs and rows
    sources formats rawdisk rawview sandbox qemu nbd            any disk image file as the guest-visible bytes of a disk
    upload assembly download reading                            a disk into the store, and back
    lifecycle rules audit standing sidecar changing batch       an image: its statuses, and how it is changed
    creation importing replicating capturing overlaid           an image of any number of disks, from any origin
    exporting package ovf leftovers                             an image as files
    modifying tagging policy reporting usage picture choices    what people decide about images, and ask of them
    check deleting reap collect compaction                      whether all is well, and the end of images
    rebuilding references                                       a lost catalog, from the store
    projects quotas sharing inbox keyring rekeying              who may see and use what, and under which key
    compute                                                     libvirt on a host: domains, lazy disks, backups
    servers volumes hostdisks placing tending proving screen    what runs from images there
    migration                                                   a table of imports, done by many processes
    postgres prefect_server passwords metrics                   what `darkroom up` starts, and how it is watched

An operation is one function in one of them, which its task calls.

Nothing here imports Prefect.
"""
