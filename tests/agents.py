"""A guest agent as a shell script: it speaks enough of the protocol to freeze and thaw a real file system."""

SCRIPT = """
mount -o remount,rw /mnt
(while :; do date >> /mnt/busy; sync; sleep 0.1; done) &
answer() {
    while read -r line; do
        case "$line" in
            *guest-sync*) id=$(echo "$line" | sed 's/.*"id":[^0-9]*\\([0-9]*\\).*/\\1/'); echo "{\\"return\\": $id}" ;;
            *guest-ping*) echo '{"return": {}}' ;;
            *fsfreeze-freeze*) FREEZE ;;
            *fsfreeze-thaw*) fsfreeze --unfreeze /mnt; rm -f /frozen; echo '{"return": 1}' ;;
            *fsfreeze-status*) [ -f /frozen ] && echo '{"return": "frozen"}' || echo '{"return": "thawed"}' ;;
            *) echo '{"error": {"class": "CommandNotFound", "desc": "unknown"}}' ;;
        esac
    done
}
until [ -e /sys/class/virtio-ports/vport*p1/dev ]; do sleep 0.1; done
mknod /dev/agent c $(sed 's/:/ /' /sys/class/virtio-ports/vport*p1/dev)
(while :; do answer; sleep 0.1; done <> /dev/agent >&0) &
"""

FREEZES = SCRIPT.replace("FREEZE", """fsfreeze --freeze /mnt; touch /frozen; echo '{"return": 1}'""")
HANGS = SCRIPT.replace("FREEZE", "fsfreeze --freeze /mnt; touch /frozen")
"""It freezes and never says so; it thaws."""
