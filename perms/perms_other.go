//go:build !freebsd && !linux

package perms

import (
	"errors"

	"golang.org/x/sys/unix"
)

func chmodAt(dir int, name string, mode uint32) error {
	return unix.Fchmodat(dir, name, mode, unix.AT_SYMLINK_NOFOLLOW)
}

func peerCred(int) (Cred, error) { return Cred{}, errors.ErrUnsupported }
