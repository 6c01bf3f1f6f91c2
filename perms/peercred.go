package perms

import (
	"errors"
	"fmt"
	"slices"
	"syscall"
)

// A Cred has the credentials of a peer on a Unix socket, as the kernel recorded
// them at connect(2). They do not change if the process changes its user or passes
// the descriptor to another process.
type Cred struct {
	UID, GID int   // effective user and group
	Groups   []int // all known groups, GID first
}

// In reports whether the peer is known to be in a group.
func (c Cred) In(gid int) bool { return slices.Contains(c.Groups, gid) }

// PeerCred returns the credentials of the peer of a connected Unix stream socket.
// Other sockets are an error. It works in capability mode. An HTTP handler can get
// them through [net/http.Server.ConnContext], as in the example.
//
// On FreeBSD it uses LOCAL_PEERCRED, see unix(4), which returns the effective group
// and at most 15 others, and does not show whether the peer is in another jail. On
// Linux it uses SO_PEERCRED, see unix(7), and SO_PEERGROUPS, which is new in 4.13.
// Elsewhere the error is [errors.ErrUnsupported].
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

// groupList returns the effective group and then the others, without duplicates.
func groupList(gid int, others []uint32) []int {
	groups := []int{gid}
	for _, g := range others {
		if !slices.Contains(groups, int(g)) {
			groups = append(groups, int(g))
		}
	}
	return groups
}
