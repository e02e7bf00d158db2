"""Compute hosts: libvirt and QEMU on the machine that this runs on. Nothing else imports libvirt or says "domain".

connection  open(uri); errors of libvirt become ours
domain      define, start, stop, undefine, look at a domain
probe       whether guests really run under KVM, or are emulated
"""
