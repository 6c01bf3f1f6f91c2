package sock

import "golang.org/x/sys/unix"

// From <sys/un.h>: struct unpcbid is pid, effective uid, effective gid.
const (
	solLocal     = 0
	localPeereid = 3
)

func peerCred(fd int) (Cred, error) {
	if err := mustBeUnix(fd); err != nil {
		return Cred{}, err
	}
	// Of what x/sys/unix has, this getsockopt(2) is the one that hands out
	// 32-bit numbers and does not mind which option they come from.
	b, err := unix.GetsockoptICMPv6Filter(fd, solLocal, localPeereid)
	if err != nil {
		return Cred{}, err
	}
	gid := int(b.Filt[2])
	return Cred{UID: int(b.Filt[1]), GID: gid, Groups: []int{gid}, PID: int(int32(b.Filt[0]))}, nil
}
