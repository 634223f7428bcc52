"""What the manual pages say beyond the program's own help. tests/packages holds it to the code."""

from __future__ import annotations

SUMMARY = "a write-once file system over several storage backends"

DESCRIPTION = (
    (
        "wormfs shows storage backends (local directories, S3 buckets, FTP servers, Moodle's own file "
        "storage) as directories below one mountpoint. Files can be put into them; once a file is "
        "committed, its bytes, name, mode, owner and times are fixed. It is kept until its date and, "
        "where the settings allow it, may be erased after it, with proof."
    ),
    (
        "close(2) returns 0 when the backend holds the file, synced and with its SHA-256. What a backend "
        "does not take in time is kept in the spool and tried again until it is taken, over restarts too. "
        "What a killed writer left, and what lost a race, goes to quarantine."
    ),
    (
        "wormfs mount is the daemon, usually started by wormfs.service; the other commands talk to it, or "
        "work on what it has stored."
    ),
)

EXIT_STATUS = (
    (
        "0",
        "It is done, and all is well.",
    ),
    (
        "1",
        "It failed, or something was found.",
    ),
    (
        "2",
        "The call or the settings are wrong; for wormfs verify also: a backend could not be verified.",
    ),
    (
        "3",
        "Done in part: some backends are not mounted, or files are kept longer than they may be.",
    ),
    (
        "130",
        "Interrupted by Ctrl-C.",
    ),
)
EXIT_STATUS_OF_ALL = (
    "As for every command: 0 if it is done, 1 if it failed, 2 if the call or the settings are wrong, 130 "
    "if it was interrupted; what is said above goes before this."
)
EXIT_STATUS_OF_MOUNT = (
    "As mount(8) has it: 0 if it is mounted, or some backend is still awaited; 32 if nothing was mounted; "
    "2 if the call or the settings are wrong."
)

ENVIRONMENT = (
    (
        "WORMFS_CONFIG",
        "The settings file, where --config is not given.",
    ),
    (
        "WORMFS_TRACEBACK",
        "If it is not empty, unforeseen errors are shown with a traceback.",
    ),
    (
        "WORMFS_MOUNTER",
        (
            "The socket of wormfs mounter, which mounts for a daemon that may not. Without it the daemon "
            "mounts by itself. Set by wormfs.service."
        ),
    ),
    (
        "CREDENTIALS_DIRECTORY",
        (
            "Where secrets of the kind {credential: NAME} are read; set by systemd for a unit with "
            "LoadCredential=."
        ),
    ),
    (
        "STATE_DIRECTORY",
        (
            "Where wormfs reload finds the daemon if the settings cannot be read; set by systemd for a "
            "unit with StateDirectory=."
        ),
    ),
    (
        "NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID",
        "Where the daemon tells systemd that it is ready, how it is, and how often that it is alive.",
    ),
    (
        "SUDO_USER",
        "Who is named in the audit trail beside root.",
    ),
)

FILES = (
    (
        "/etc/wormfs/config.yaml",
        "The settings; see wormfs.yaml(5).",
    ),
    (
        "/etc/wormfs/credentials",
        "Secrets, one to a file, which systemd hands to the service.",
    ),
    (
        "/var/lib/wormfs",
        (
            "state_directory: identity, audit trail, catalogs of verification, spools of backends that "
            "are not local. Never delete it by hand: it may hold the only copy of a file that somebody "
            "was told is safe."
        ),
    ),
    (
        "/var/lib/wormfs/wormfs.log",
        ("The log of wormfs mount --daemon and of a mount by fstab. Under systemd: journalctl -u wormfs."),
    ),
    (
        "PATH/.wormfs/spool",
        (
            "Spool and quarantine of a local backend, below its path; hidden in the mount. Never delete "
            "it by hand."
        ),
    ),
    (
        "/usr/lib/wormfs",
        "The program and its libraries, where it was installed from the Debian package.",
    ),
)

SIGNALS = (
    (
        "SIGTERM",
        (
            "The daemon stops: it unmounts, lets open files and commits finish (at most stop_timeout), "
            "and ends."
        ),
    ),
    (
        "SIGINT",
        "As SIGTERM; a second one stops at once.",
    ),
    (
        "SIGHUP",
        (
            "The daemon reads its settings again, as wormfs reload does, and says in its log what came of "
            "it. In a terminal that was closed: as SIGTERM."
        ),
    ),
    (
        "SIGUSR1, SIGUSR2",
        "The daemon's log tells more, or less: one step of log_level, until the next start or reload.",
    ),
    (
        "SIGKILL",
        (
            "Nothing that was accepted is lost: the next start resumes commits. What was being written "
            "goes to quarantine."
        ),
    ),
)

MOUNTING = (
    (
        "It returns when every backend is mounted or known to be down, so that what comes after it in the "
        "order of the boot finds the archives. The daemon goes on in the background, as root; wormfs "
        "umount, or umount(8) with -R, ends it."
    ),
    (
        "Options that are meant for mount(8) and systemd (_netdev, nofail, x-systemd.automount and the "
        "like) are accepted, and so are those that wormfs sets anyway (allow_other, default_permissions, "
        "nodev, nosuid). Any other is an error, such as ro or noexec."
    ),
)

SEE_ALSO = ("wormfs.yaml(5)", "mount.fuse.wormfs(8)")

SETTINGS = (
    (
        "The settings of wormfs are one file in YAML. It must belong to root or to the daemon's user, and "
        "be 0640 or narrower. wormfs config check names everything that is wrong with it; wormfs config "
        "show prints what is in force; wormfs reload lets the running daemon take it over."
    ),
)

SHORTEST_SETTINGS = """\
mountpoint: /mnt/worm
backends:
  exams: {type: local, path: /srv/worm/exams}
"""

SETTINGS_FILES = (
    (
        "/etc/wormfs/config.yaml",
        "Read where neither --config nor WORMFS_CONFIG name another file.",
    ),
    (
        "/usr/share/wormfs/config.yaml",
        "An example of every key, where the Debian package is installed.",
    ),
)
