"""What guacd says: the argument names it offers for RDP, a first frame, and a sample of every opcode it may send."""

from __future__ import annotations

import base64

# As guacd 1.3.0 offers them for `select,rdp` (77 with the version), plus what 1.6.0 added.
ARGUMENT_NAMES = (
    "hostname", "port", "domain", "username", "password", "width", "height", "dpi", "initial-program", "color-depth",
    "disable-audio", "enable-printing", "printer-name", "enable-drive", "drive-name", "drive-path",
    "create-drive-path", "disable-download", "disable-upload", "console", "console-audio", "server-layout", "security",
    "ignore-cert", "disable-auth", "remote-app", "remote-app-dir", "remote-app-args", "static-channels", "client-name",
    "enable-wallpaper", "enable-theming", "enable-font-smoothing", "enable-full-window-drag",
    "enable-desktop-composition", "enable-menu-animations", "disable-bitmap-caching", "disable-offscreen-caching",
    "disable-glyph-caching", "preconnection-id", "preconnection-blob", "timezone", "enable-sftp", "sftp-hostname",
    "sftp-host-key", "sftp-port", "sftp-username", "sftp-password", "sftp-private-key", "sftp-passphrase",
    "sftp-directory", "sftp-root-directory", "sftp-server-alive-interval", "sftp-disable-download",
    "sftp-disable-upload", "recording-path", "recording-name", "recording-exclude-output", "recording-exclude-mouse",
    "recording-include-keys", "create-recording-path", "resize-method", "enable-audio-input", "read-only",
    "gateway-hostname", "gateway-port", "gateway-domain", "gateway-username", "gateway-password",
    "load-balance-info", "disable-copy", "disable-paste", "wol-send-packet", "wol-mac-addr", "wol-broadcast-addr",
    "wol-wait-time",
    "enable-touch", "force-lossless", "normalize-clipboard", "recording-exclude-touch", "timeout", "cert-tofu",
    "cert-fingerprints", "disable-gfx", "recording-write-existing",
)  # fmt: skip

_PIXEL = base64.b64encode(
    bytes.fromhex(
        "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c4944415408d763"
        "f8cfc0000003010100c9fe92ef0000000049454e44ae426082"
    )
).decode()

# Size, one colour over everything, one picture; the fake adds the `sync` that ends the frame.
FIRST_FRAME = (
    "4.size,1.0,4.1024,3.768;"
    "4.rect,1.0,1.0,1.0,4.1024,3.768;5.cfill,2.14,1.0,2.40,2.60,2.80,3.255;"
    f"3.img,1.1,2.14,1.0,9.image/png,2.10,2.10;4.blob,1.1,{len(_PIXEL)}.{_PIXEL};3.end,1.1;"
)

# Every instruction that a server may send by Guacamole's protocol reference, with arguments of the right shape.
DOWNWARD_SAMPLES: dict[str, tuple[object, ...]] = {
    "ack": (0, "OK", 0),
    "arc": (0, 10, 10, 5, 0, 3.14, 0),
    "args": ("VERSION_1_5_0", "hostname"),
    "argv": (1, "text/plain", "password"),
    "audio": (2, "audio/L16;rate=44100,channels=2"),
    "blob": (1, _PIXEL),
    "body": (0, 3, "application/octet-stream", "secret.txt"),
    "cfill": (14, 0, 255, 0, 0, 255),
    "clip": (0,),
    "clipboard": (4, "text/plain"),
    "close": (0,),
    "copy": (0, 0, 0, 8, 8, 14, 0, 8, 8),
    "cstroke": (14, 0, 1, 1, 2, 255, 0, 0, 255),
    "cursor": (0, 0, -1, 0, 0, 16, 16),
    "curve": (0, 1, 1, 2, 2, 3, 3),
    "disconnect": (),
    "dispose": (-1,),
    "distort": (0, 1, 0, 0, 1, 0, 0),
    "end": (1,),
    "error": ("Aborted. See logs.", 519),
    "file": (5, "application/octet-stream", "secret.txt"),
    "filesystem": (0, "Shared Drive"),
    "identity": (0,),
    "img": (1, 14, 0, "image/png", 0, 0),
    "jpeg": (14, 0, 0, 0, _PIXEL),
    "lfill": (14, 0, -1),
    "line": (0, 5, 5),
    "log": ("A line for the log",),
    "lstroke": (14, 0, 1, 1, 2, -1),
    "mouse": (10, 10, 0, 1700000000000),
    "move": (1, 0, 5, 5, 0),
    "msg": (1, "7a5e", "Alice"),
    "name": ("Service screen",),
    "nest": (0, "4.sync,1.0;"),
    "nop": (),
    "pipe": (6, "text/plain", "pipe"),
    "png": (14, 0, 0, 0, _PIXEL),
    "pop": (0,),
    "push": (0,),
    "ready": ("$00000000-0000-4000-8000-000000000000",),
    "rect": (0, 0, 0, 8, 8),
    "required": ("username", "password"),
    "reset": (0,),
    "set": (0, "miter-limit", "10"),
    "shade": (1, 128),
    "size": (0, 1024, 768),
    "start": (0, 1, 1),
    "sync": (1700000000000, 1),
    "transfer": (0, 0, 0, 8, 8, 3, 0, 8, 8),
    "transform": (0, 1, 0, 0, 1, 0, 0),
    "undefine": (0,),
    "video": (7, 0, "video/webm"),
}
