//go:build stress

package e2e

import (
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// perConnection is the largest memory of a connection in KiB according to
// SECURITY.md: the sum of those rows of its table that count for each of
// -max-conns.
func perConnection(t *testing.T) (kib int) {
	b, err := os.ReadFile("../../SECURITY.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range regexp.MustCompile("(?m)^\\| [^|]* \\| (\\d+) KiB \\| `-max-conns` \\|").FindAllSubmatch(b, -1) {
		n, _ := strconv.Atoi(string(row[1]))
		kib += n
	}
	if kib == 0 {
		t.Fatal("SECURITY.md has no row about -max-conns")
	}
	return kib
}

// With the worst connections the memory stays within what SECURITY.md says:
// first incomplete headers, then queued requests with bodies.
func TestStressMemory(t *testing.T) {
	storm(t)
	needRoot(t, "it looks at the memory of processes that are closed to their own user")
	const n, head, others = 50, 127 << 10, 24 << 10 // connections; bytes; KiB of what does not depend on n
	lines := func(count int, line string) string {
		var b strings.Builder
		for i := range count {
			fmt.Fprintf(&b, line, i)
		}
		return b.String()
	}
	limit := others + n*perConnection(t)
	limit += limit / 2 // for the garbage collector
	for _, tt := range []struct {
		name, target, fields, body string
		flags                      []string
		refused                    bool
	}{
		{"one field", "/", "X-A: " + strings.Repeat("a", head-200) + "\r\n", strings.Repeat("b", 64<<10), nil, false},
		{"empty fields", "/", lines(990, "X%03d:\r\n"), strings.Repeat("b", 64<<10), nil, false},
		{"long values", "/", lines(head/132, "X-%03d: "+strings.Repeat("v", 122)+"\r\n"), strings.Repeat("b", 64<<10), nil, false},
		{"long names", "/", lines(head/132, "X-"+strings.Repeat("n", 120)+"-%03d: v\r\n"), strings.Repeat("b", 64<<10), nil, false},
		{"long target", "/" + strings.Repeat("t", 60<<10), lines(head/2/132, "X-%03d: "+strings.Repeat("v", 122)+"\r\n"), strings.Repeat("b", 64<<10), nil, false},
		{"form", "/?" + lines(60, "q%03d="+strings.Repeat("a", 1000)+"&"), "Content-Type: application/x-www-form-urlencoded\r\n",
			lines(60, "b%03d="+strings.Repeat("a", 1000)+"&"), []string{"-form"}, false},
		{"more lines than are taken", "/", strings.Repeat("A:\r\n", head/4), "", nil, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := newDir(t, nil) + "/gate"
			open := newGate(t, path)
			args := append(tt.flags, "-access-log=false", "-max-procs", "1", "-max-queue", "100", "-timeout", "10m", "--")
			s := start(t, append(args, script(t, newDir(t, nil), "wait", `[ -z "$HTTP_X_FIRST" ] || : <"`+path+`"`))...)
			first := dial(t, s.addr).send("%s", get11("/", "X-First: yes"))
			var all []*conn
			for range n {
				all = append(all, dial(t, s.addr).trySend(fmt.Sprintf("POST %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%s", tt.target, tt.fields)))
			}
			for _, c := range all {
				c.trySend(fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(tt.body), tt.body))
			}
			open()
			first.answer("GET").wantStatus(t, 200)
			for _, c := range all {
				if tt.refused {
					io.Copy(io.Discard, c)
				} else {
					c.answer("POST").wantStatus(t, 200)
				}
			}
			limit := limit
			if tt.refused {
				limit /= 2 // it has neither variables nor a body
			}
			core, monitor := peakResident(t, s.core), peakResident(t, s.pid)
			t.Logf("%d connections: core %d KiB, monitor %d KiB at most; %d KiB are said", n, core, monitor, limit)
			if core+monitor > limit && !raceEnabled {
				off(t, "%d KiB, SECURITY.md says %d", core+monitor, limit)
			}
			s.stop()
		})
	}
}
