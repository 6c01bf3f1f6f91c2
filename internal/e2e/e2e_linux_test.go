package e2e

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// These statuses are for a lack of resources, which Linux can take away from a
// running process.

func init() { roles["limit"] = roleLimit }

// roleLimit sets a soft limit of a process of the same user. Root in a
// container may not be allowed to do it for other users.
func roleLimit(args []string) int {
	var pid, resource int
	var soft uint64
	fmt.Sscan(strings.Join(args, " "), &pid, &resource, &soft)
	var r unix.Rlimit
	err := unix.Prlimit(pid, resource, nil, &r)
	if err == nil {
		r.Cur = min(soft, r.Max)
		err = unix.Prlimit(pid, resource, &r, nil)
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

func (s *server) limit(resource int, soft uint64) {
	s.t.Helper()
	as(s.t, s.cred, "limit", fmt.Sprint(s.pid), fmt.Sprint(resource), fmt.Sprint(soft))
}

// A monitor without free descriptors answers 503, and works again when it has
// some.
func TestStatusNoDescriptor(t *testing.T) {
	t.Parallel()
	needRoot(t, "it counts the descriptors of a process that is closed to its own user")
	s := launch{cred: nobody(t), args: sh("echo hello")}.start(t)
	s.get("/").want(t, 200, "hello\n")
	before := descriptors(t, s.pid)
	free := uint64(0) // the next free descriptor
	for int(free) < len(before) && strings.HasPrefix(before[free], fmt.Sprint(free, " ")) {
		free++
	}
	refused := 0
	for _, more := range []uint64{0, 1, 3, 5} { // each makes another call fail
		s.limit(unix.RLIMIT_NOFILE, free+more)
		a := s.get("/")
		switch a.status {
		case 200:
		case 503:
			refused++
			wantField("Retry-After", "1")(t, a)
		default:
			t.Errorf("with %d more descriptors: got %d, %q; want 503", more, a.status, a.body)
		}
	}
	if refused == 0 {
		t.Error("no request was refused")
	}
	s.limit(unix.RLIMIT_NOFILE, 1000)
	s.get("/").want(t, 200, "hello\n")
	eventually(t, "no descriptor is lost", func() bool { return len(descriptors(t, s.pid)) <= len(before) })
	s.stop()
}

// If the user may not have more processes the status is 503.
func TestStatusNoProcess(t *testing.T) {
	t.Parallel()
	needRoot(t, "it needs a user that runs nothing else")
	s := launch{cred: &syscall.Credential{Uid: 30077, Gid: 30077}, args: sh("echo hello")}.start(t)
	s.get("/").want(t, 200, "hello\n")
	s.limit(unix.RLIMIT_NPROC, 1)
	a := s.get("/")
	a.wantStatus(t, 503)
	wantField("Retry-After", "1")(t, a)
	s.limit(unix.RLIMIT_NPROC, 1000)
	s.get("/").want(t, 200, "hello\n")
	s.stop()
}
