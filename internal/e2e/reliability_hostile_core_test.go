//go:build linux

package e2e

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// hijacked is a server whose core can be replaced by a compromised one.
type hijacked struct {
	*server
	bin string
}

func hijack(t *testing.T, args ...string) *hijacked {
	t.Helper()
	bin := ownBinary(t)
	h := &hijacked{launch{bin: bin, args: args}.start(t), bin}
	h.errorsExpected = true
	return h
}

// take replaces the core by a compromised one for each plan, one after the
// other. After those the real core follows.
func (h *hijacked) take(plans ...string) (core int) {
	h.t.Helper()
	if err := replace(filepath.Join(filepath.Dir(h.bin), "honest"), underTest); err != nil {
		h.t.Fatal(err)
	}
	pose(h.t, h.bin, strings.Join(plans, "\n"))
	h.signal(syscall.SIGHUP)
	core, _ = strconv.Atoi(h.await("core replaced")["core"])
	return core
}

// A protocol violation ends the service: exit 70, no socket file, no process
// left. control.TestViolations has all violations; here is one of each kind. A
// core that dies in the middle of a message has only crashed.
func TestHostileCoreViolations(t *testing.T) {
	t.Parallel()
	needRoot(t, "it looks at processes that are closed to their own user")
	frame := func(kind byte, id uint64, payload string) string {
		return "frame: " + strconv.Quote(string(frameBytes(kind, id, payload)))
	}
	for _, tt := range []struct {
		name, plan, says string
		starts           int // harmless ones that come before
	}{
		{"variable", frame(kindStart, 1, "\x00\x00LD_PRELOAD=/tmp/evil.so\x00"), "LD_PRELOAD", 0},
		{"length", "frame: " + strconv.Quote("\xff\xff\xff\xff\x02\x00\x00\x00\x00\x00\x00\x00\x01"), "frame of 4294967299 bytes", 0},
		{"number", frame(kindCancel, 1, ""), "never began", 0},
		{"too many", "too many", "more than 1 requests at once", 1},
		{"half a frame", "half a frame", "", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := meet(t, nil)
			h := hijack(t, append([]string{"-dir", m.dir, "-max-procs", "1", "-kill-after", "1ms"}, sh(`echo $$ >told; read x <go`)...)...)
			core := h.take(tt.plan)
			if tt.says == "" {
				h.await("core died", "exit", "exit 0")
				eventually(t, "an honest core", func() bool { return executes(h.currentCore(), h.bin) })
				h.stop()
				return
			}
			if r := h.await("protocol violation by core"); !strings.Contains(r["error"], tt.says) {
				t.Errorf("%v, want %q", r, tt.says)
			}
			if st := h.wait(); st != statusProtocol {
				t.Errorf("exit status %d, want %d", st, statusProtocol)
			}
			if _, err := os.Lstat(h.path); err == nil {
				t.Error("the socket file has not been removed")
			}
			awaitGone(t, core)
			if n := strings.Count(m.rest(), "\n"); n > tt.starts {
				t.Errorf("%d starts, want at most %d", n, tt.starts)
			}
		})
	}
}
