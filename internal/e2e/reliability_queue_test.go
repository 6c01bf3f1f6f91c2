//go:build linux

package e2e

import (
	"strconv"
	"testing"
)

// First come, first served.
func TestQueueIsFair(t *testing.T) {
	t.Parallel()
	m := meet(t, nil)
	s := shell(t, `echo "$QUERY_STRING" >told; read x <go`, "-dir", m.dir, "-max-procs", "1", "-max-queue", "2")
	const n = 3
	var conns []*conn
	for i := range n {
		conns = append(conns, dial(t, s.addr).send("%s", get11("/?"+strconv.Itoa(i))))
		eventually(t, "one more in the queue", func() bool {
			st := s.status()
			return st["running"] == "1" && st["queued"] == strconv.Itoa(i)
		})
	}
	for i := range n {
		if got := m.line(); got != strconv.Itoa(i) {
			t.Errorf("served is %q, it is the turn of %d", got, i)
		}
		m.release(1)
		conns[i].answer("GET").want(t, 200, "")
	}
	s.stop()
}
