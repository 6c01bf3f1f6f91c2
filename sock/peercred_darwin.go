package sock

import (
	"errors"

	"golang.org/x/sys/unix"
)

const solLocal = 0 // SOL_LOCAL of <sys/un.h>

func peerCred(fd int) (Cred, error) {
	if err := mustBeUnix(fd); err != nil {
		return Cred{}, err
	}
	x, err := unix.GetsockoptXucred(fd, solLocal, unix.LOCAL_PEERCRED)
	if err != nil {
		return Cred{}, err
	}
	n := int(x.Ngroups)
	if x.Version != 0 || n < 1 || n > len(x.Groups) {
		return Cred{}, errors.New("LOCAL_PEERCRED: not an xucred that this program knows")
	}
	gid := int(x.Groups[0])
	pid, err := unix.GetsockoptInt(fd, solLocal, unix.LOCAL_PEERPID)
	if err != nil {
		pid = -1
	}
	return Cred{UID: int(x.Uid), GID: gid, Groups: groupList(gid, x.Groups[1:n]), PID: pid}, nil
}
