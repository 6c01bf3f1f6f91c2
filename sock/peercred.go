package sock

import (
	"errors"
	"fmt"
	"slices"
	"syscall"
)

// A Cred says who is at the other end of a connection on a Unix socket, as the
// kernel noted at connect(2). What the process has become since, and to whom
// it passed the descriptor on, is not known.
type Cred struct {
	UID, GID int   // effective user and group
	Groups   []int // all groups that are known, GID first
	PID      int   // -1 if not known
}

// In reports whether the peer is known to be in a group.
func (c Cred) In(gid int) bool { return slices.Contains(c.Groups, gid) }

// PeerCred returns the credentials of the peer of a connected Unix stream
// socket; of any other the result is an error. It works in capability mode. The
// connections that [Listener.Accept] and package net make are all a
// [syscall.Conn]. An HTTP handler learns them by way of
// [net/http.Server.ConnContext], as the example shows.
//
// On FreeBSD see unix(4), LOCAL_PEERCRED: the effective group and 15 others at
// most, and the pid since 13; a peer in another jail is not told apart. On
// Linux see unix(7), SO_PEERCRED, and SO_PEERGROUPS, which is new in 4.13. Darwin
// knows 16 groups at most; NetBSD and OpenBSD know the effective group only. On
// others the error is [errors.ErrUnsupported].
func PeerCred(c syscall.Conn) (Cred, error) {
	rc, err := c.SyscallConn()
	if err != nil {
		return Cred{}, fmt.Errorf("peer credentials: %w", err)
	}
	var cred Cred
	var cerr error
	if err := rc.Control(func(fd uintptr) { cred, cerr = peerCred(int(fd)) }); err != nil {
		return Cred{}, fmt.Errorf("peer credentials: %w", err)
	}
	if cerr != nil {
		return Cred{}, fmt.Errorf("peer credentials: %w", cerr)
	}
	if cred.PID <= 0 {
		cred.PID = -1
	}
	return cred, nil
}

var errNotUnix = errors.New("not a unix socket")

// groupList puts the effective group first, and each group once.
func groupList[T ~int | ~uint32](gid int, others []T) []int {
	groups := make([]int, 1, 1+len(others))
	groups[0] = gid
	for _, g := range others {
		if !slices.Contains(groups, int(g)) {
			groups = append(groups, int(g))
		}
	}
	return groups
}
