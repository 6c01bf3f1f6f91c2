//go:build stress && (freebsd || linux)

package e2e

import (
	"strings"
	"testing"
)

// A client that goes away in the middle of a body that is passed on while the
// command runs.
func TestClientGoneInBody(t *testing.T) {
	t.Log("stress: may fail where the machine is slow or busy")
	dir := newDir(t, nil)
	s := shell(t, `echo $$ >leader; cat >/dev/null; sleep 100`, "-dir", dir)
	c := dial(t, s.addr)
	c.send("%s", text11("POST", "/", "Content-Length: 3000000"))
	c.send("%s", strings.Repeat("x", 2<<20))
	leader := readPID(t, dir+"/leader")
	c.Close()
	awaitGone(t, leader)
	s.stop()
}
