package perms

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
}

// In reports whether the peer is known to be in a group.
func (c Cred) In(gid int) bool { return slices.Contains(c.Groups, gid) }

// PeerCred returns the credentials of the peer of a connected Unix stream
// socket; of any other the result is an error. It works in capability mode. An
// HTTP handler learns them by way of [net/http.Server.ConnContext], as the
// example shows.
//
// On FreeBSD see unix(4), LOCAL_PEERCRED: the effective group and 15 others at
// most; a peer in another jail is not told apart. On Linux see unix(7),
// SO_PEERCRED, and SO_PEERGROUPS, which is new in 4.13. Elsewhere the error is
// [errors.ErrUnsupported].
func PeerCred(c syscall.Conn) (cred Cred, err error) {
	err = control(c, func(fd int) (err error) {
		cred, err = peerCred(fd)
		return err
	})
	if err != nil {
		return Cred{}, fmt.Errorf("peer credentials: %w", err)
	}
	return cred, nil
}

var errNotUnix = errors.New("not a unix socket")

// groupList puts the effective group first, and each group once.
func groupList(gid int, others []uint32) []int {
	groups := []int{gid}
	for _, g := range others {
		if !slices.Contains(groups, int(g)) {
			groups = append(groups, int(g))
		}
	}
	return groups
}
