package cli

import (
	"errors"
	"os"
	"runtime"

	"github.com/onewake/onewake/perms"
	"github.com/onewake/onewake/sock"
)

// hint says how to fix an error of package sock, or how to find out more, as a
// command if possible. It follows the text of the error.
func hint(err error) string {
	var e *sock.Error
	if !errors.As(err, &e) {
		return ""
	}
	us := perms.UserName(os.Geteuid())
	fix := map[sock.Cause]string{
		sock.NoDir:        "install -d -o " + us + " -m 0750 " + e.Path,
		sock.DirOwner:     "chown " + us + " " + e.Path,
		sock.ParentOwner:  "put the socket elsewhere, or chown " + us + " " + e.Path, // changing its owner may break other programs
		sock.DirWritable:  "chmod " + map[os.FileMode]string{0o020: "g", 0o002: "o", 0o022: "go"}[e.Mode] + "-w " + e.Path,
		sock.ForeignLink:  "remove it",
		sock.BadLock:      "remove it",
		sock.NotRemovable: "remove it",
		sock.NoAnswer:     "stop that server, or remove the file",
		sock.CannotChown:  "do not use -socket-owner, or start onewake as that user",
		sock.CannotChgrp:  "add the user to the group, or make it the group of the directory",
	}[e.Cause]
	find := map[string]map[sock.Cause]string{
		"freebsd": {sock.LockHeld: "it: fstat " + e.Path, sock.Taken: "it: sockstat -l", sock.NoInterface: "the names: ifconfig -l", sock.NoLocal: "its addresses: ifconfig"},
		"linux":   {sock.LockHeld: "it: fuser " + e.Path, sock.Taken: "it: ss -lnp", sock.NoInterface: "the names: ip link", sock.NoLocal: "its addresses: ip address"},
	}[runtime.GOOS][e.Cause]
	switch {
	case fix != "":
		return " (to fix: " + fix + ")"
	case find != "":
		return " (to find " + find + ")"
	}
	return ""
}
