package perms

import (
	"errors"

	"golang.org/x/sys/unix"
)

func chmodAt(dir int, name string, mode uint32) error {
	return unix.Fchmodat(dir, name, mode, unix.AT_SYMLINK_NOFOLLOW)
}

func peerCred(fd int) (Cred, error) {
	// On a TCP socket the option has another meaning, and its answer could look
	// like that of root.
	sa, err := unix.Getsockname(fd)
	if _, ok := sa.(*unix.SockaddrUnix); err == nil && !ok {
		err = errNotUnix
	}
	if err != nil {
		return Cred{}, err
	}
	const solLocal = 0 // SOL_LOCAL of <sys/un.h>
	x, err := unix.GetsockoptXucred(fd, solLocal, unix.LOCAL_PEERCRED)
	if err != nil {
		return Cred{}, err
	}
	n := int(x.Ngroups)
	if x.Version != 0 || n < 1 || n > len(x.Groups) { // XUCRED_VERSION is 0
		return Cred{}, errors.New("LOCAL_PEERCRED: unknown version of struct xucred")
	}
	gid := int(x.Groups[0])
	return Cred{UID: int(x.Uid), GID: gid, Groups: groupList(gid, x.Groups[1:n])}, nil
}
