//go:build linux

package e2e

import (
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// hijacked is a server whose core can be replaced by one that is not honest.
type hijacked struct {
	*server
	bin string
}

func hijack(t *testing.T, args ...string) *hijacked {
	t.Helper()
	bin := ownBinary(t)
	h := &hijacked{launch{bin: bin, args: args}.start(t), bin}
	h.troubles = true
	return h
}

// take replaces the core, once. Those that follow are honest.
func (h *hijacked) take(plan string) (core int) {
	h.t.Helper()
	if err := replace(filepath.Join(filepath.Dir(h.bin), "honest"), underTest); err != nil {
		h.t.Fatal(err)
	}
	pose(h.t, h.bin, plan)
	h.signal(syscall.SIGHUP)
	core, _ = strconv.Atoi(h.await("core replaced")["core"])
	return core
}

// Whatever a core says that no honest core says ends it, starts nothing, and
// leaves nothing behind. Here is one of each kind; all of them are in
// spawn.TestBreach.
func TestHostileCoreBreaches(t *testing.T) {
	t.Parallel()
	needRoot(t, "it counts the descriptors of processes that are closed to their own user")
	frame := func(kind byte, id uint64, payload string) string {
		return "frame: " + strconv.Quote(string(frameBytes(kind, id, payload)))
	}
	for _, tt := range []struct {
		name, plan string
		starts     int  // how many harmless starts it begins with
		dies       bool // by itself: that is a crash
	}{
		{"variable", frame(kindStart, 1, "\x00LD_PRELOAD=/tmp/evil.so\x00"), 0, false},
		{"malformed", "frame: " + strconv.Quote("\xff\xff\xff\xff\x02"), 0, false}, // of 4 GB
		{"end of what never began", frame(kindEnd, 1, ""), 0, false},
		{"too many at once", "too many", 1, false},
		{"descriptors", "descriptors", 0, false},
		{"half a message", "half a frame", 0, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := meet(t, nil)
			h := hijack(t, append([]string{"-dir", m.dir, "-max-procs", "1", "-kill-after", "1ms"}, sh(`echo $$ >told; read x <go`)...)...)
			before := len(descriptors(t, h.pid))
			core := h.take(tt.plan)
			if tt.dies {
				h.await("core died", "core", strconv.Itoa(core))
			} else {
				h.await("breach by core", "core", strconv.Itoa(core))
			}
			awaitGone(t, core)
			// What it has started is ended. The next one is honest.
			h.settled(before)
			eventually(t, "an honest core", func() bool { return executes(h.currentCore(), h.bin) })
			if n := strings.Count(m.rest(), "\n"); n > tt.starts {
				t.Errorf("%d starts, want at most %d", n, tt.starts)
			}
			h.stop()
		})
	}
}
