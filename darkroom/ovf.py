"""The OVF of a full-server image: what the server is made of, for whoever reads it (DMTF DSP0243)."""

from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as ET

_OVF = "http://schemas.dmtf.org/ovf/envelope/1"
_RASD = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"
_VSSD = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData"
_VMW = "http://www.vmware.com/schema/ovf"
_FORMATS = {
    "vmdk": "http://www.vmware.com/interfaces/specifications/vmdk.html#sparse",
    "stream": "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized",
    "qcow2": "http://www.gnome.org/~markmc/qcow-image-format.html",
}
_CONTROLLER, _DISK = 10, 100
"""The numbers of the first controller and the first disk among the items of the hardware."""
_DISKS = 15
_OWN_PLACE = 7
"""Disks that a SCSI controller takes, and the place that is its own."""
MEMORY = 2048
"""What is described, in MiB, for an image that says nothing of it."""
for _prefix, _uri in (("ovf", _OVF), ("rasd", _RASD), ("vssd", _VSSD), ("vmw", _VMW)):
    ET.register_namespace(_prefix, _uri)


@dataclass(frozen=True, slots=True)
class Server:
    """What the description says beside the disks: `memory` in MiB, `firmware` bios or uefi."""

    name: str
    os: str = ""
    memory: int = MEMORY
    firmware: str = "bios"


@dataclass(frozen=True, slots=True)
class File:
    """The file of a disk: its name, its size and that of the disk in bytes, its format (vmdk, stream, or another)."""

    name: str
    size: int
    virtual_size: int
    format: str


def encode(server: Server, files: Sequence[File]) -> bytes:
    """The description as XML; the disks in order on SCSI controllers, so that a reader finds the order again."""
    root = ET.Element(f"{{{_OVF}}}Envelope")
    references = _add(root, "References")
    section = _add(root, "DiskSection")
    _add(section, "Info", "The disks of the server")
    for number, file in enumerate(files):
        _add(references, "File", id=f"file{number}", href=file.name, size=str(file.size))
        shape = {"capacity": str(file.virtual_size), "capacityAllocationUnits": "byte"}
        shape["format"] = _FORMATS.get(file.format, f"urn:darkroom:{file.format}")
        _add(section, "Disk", diskId=f"disk{number}", fileRef=f"file{number}", **shape)
    system = _add(root, "VirtualSystem", id=server.name)
    _add(system, "Info", "A server")
    _add(system, "Name", server.name)
    kind = _add(system, "OperatingSystemSection", id="1")
    _add(kind, "Info", "The operating system")
    _add(kind, "Description", server.os or "Other")
    _hardware(_add(system, "VirtualHardwareSection"), server, len(files))
    ET.indent(root)
    text: bytes = ET.tostring(root, "utf-8", xml_declaration=True)
    return text


def _hardware(hardware: ET.Element, server: Server, disks: int) -> None:
    _add(hardware, "Info", "What the server is made of")
    about = ET.SubElement(hardware, f"{{{_OVF}}}System")
    for name, text in (
        ("ElementName", "Virtual Hardware Family"),
        ("InstanceID", "0"),
        ("VirtualSystemType", "vmx-10"),
    ):
        ET.SubElement(about, f"{{{_VSSD}}}{name}").text = text
    _item(hardware, 3, 1, "1 virtual CPU", AllocationUnits="hertz * 10^6", VirtualQuantity="1")
    memory = {"AllocationUnits": "byte * 2^20", "VirtualQuantity": str(server.memory)}
    _item(hardware, 4, 2, f"{server.memory} MiB of memory", **memory)
    for bus in range(-(-disks // _DISKS)):
        _item(hardware, 6, _CONTROLLER + bus, f"SCSI controller {bus}", Address=str(bus), ResourceSubType="lsilogic")
    for number in range(disks):
        bus, place = divmod(number, _DISKS)
        where = {"Parent": str(_CONTROLLER + bus), "AddressOnParent": str(place + (place >= _OWN_PLACE))}
        _item(hardware, 17, _DISK + number, f"disk {number}", HostResource=f"ovf:/disk/disk{number}", **where)
    config = {"key": "firmware", "value": "efi" if server.firmware == "uefi" else "bios"}
    attributes = {f"{{{_VMW}}}{name}": value for name, value in config.items()}
    ET.SubElement(hardware, f"{{{_VMW}}}Config", {f"{{{_OVF}}}required": "false", **attributes})


def _item(hardware: ET.Element, kind: int, instance: int, name: str, **more: str) -> None:
    item = ET.SubElement(hardware, f"{{{_OVF}}}Item")
    fields = {"ElementName": name, "InstanceID": str(instance), "ResourceType": str(kind), **more}
    for field, text in sorted(fields.items()):  # the schema wants them in order
        ET.SubElement(item, f"{{{_RASD}}}{field}").text = text


def _add(parent: ET.Element, name: str, text: str | None = None, **attributes: str) -> ET.Element:
    element = ET.SubElement(
        parent, f"{{{_OVF}}}{name}", {f"{{{_OVF}}}{key}": value for key, value in attributes.items()}
    )
    element.text = text
    return element
