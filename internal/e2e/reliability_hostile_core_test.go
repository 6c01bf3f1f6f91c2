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
		says       string // in the record of the breach; empty: it dies by itself
		starts     int    // how many harmless starts it begins with
	}{
		{"variable", frame(kindStart, 1, "\x00LD_PRELOAD=/tmp/evil.so\x00"), "LD_PRELOAD", 0},
		{"length", "frame: " + strconv.Quote("\xff\xff\xff\xff\x02"), "frame of 4294967299 bytes", 0},
		{"end of what never began", frame(kindEnd, 1, ""), "never began", 0},
		{"too many at once", "too many", "more than 1 requests at once", 1},
		{"descriptors", "descriptors", "request number 1 after 1", 0},
		{"half a message", "half a frame", "", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := meet(t, nil)
			h := hijack(t, append([]string{"-dir", m.dir, "-max-procs", "1", "-kill-after", "1ms"}, sh(`echo $$ >told; read x <go`)...)...)
			before := len(descriptors(t, h.pid))
			core := h.take(tt.plan)
			if tt.says == "" {
				h.await("core died", "core", strconv.Itoa(core))
				eventually(t, "an honest core", func() bool { return executes(h.currentCore(), h.bin) })
			} else if r := h.await("breach by core", "core", strconv.Itoa(core)); !strings.Contains(r["error"], tt.says) {
				t.Errorf("%v, want %q", r, tt.says)
			}
			awaitGone(t, core)
			started := strings.Fields(m.rest())
			for _, pid := range started {
				n, _ := strconv.Atoi(pid)
				awaitGone(t, n)
			}
			if len(started) > tt.starts {
				t.Errorf("%d starts, want at most %d", len(started), tt.starts)
			}
			eventually(t, "as many descriptors in the monitor as before", func() bool { return len(descriptors(t, h.pid)) <= before })
			h.stop()
		})
	}
}
