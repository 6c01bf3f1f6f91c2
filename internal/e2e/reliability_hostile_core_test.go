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

// take replaces the core by one for each plan, one after the other. Those that
// follow are honest.
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

// Whatever a core says that no honest core says ends it, starts nothing, and
// leaves nothing behind. Here is one of each kind; all of them are in
// spawn.TestBreach.
func TestHostileCoreBreaches(t *testing.T) {
	t.Parallel()
	needRoot(t, "it counts the descriptors of processes that are closed to their own user")
	frame := func(kind byte, id uint64, payload string) string {
		return "frame: " + strconv.Quote(string(frameBytes(kind, id, payload)))
	}
	type attack struct{ plan, says string }
	for _, tt := range []struct {
		name    string
		attacks []attack // one after the other, further and further apart
		starts  int      // how many harmless starts there are in them
	}{
		{"messages", []attack{
			{frame(kindStart, 1, "\x00LD_PRELOAD=/tmp/evil.so\x00"), "LD_PRELOAD"},
			{"frame: " + strconv.Quote("\xff\xff\xff\xff\x02"), "frame of 4294967299 bytes"},
			{frame(kindEnd, 1, ""), "never began"},
		}, 0},
		{"resources", []attack{
			{"descriptors", "request number 1 after 1"},
			{"too many", "more than 1 requests at once"},
			{"half a frame", ""}, // it dies by itself, which is a crash
		}, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := meet(t, nil)
			h := hijack(t, append([]string{"-dir", m.dir, "-max-procs", "1", "-kill-after", "1ms"}, sh(`echo $$ >told; read x <go`)...)...)
			before := len(descriptors(t, h.pid))
			var plans []string
			for _, a := range tt.attacks {
				plans = append(plans, a.plan)
			}
			h.take(plans...)
			breaches := 0
			for _, a := range tt.attacks {
				if a.says == "" {
					h.await("core died", "status", "exit 0")
					continue
				}
				breaches++
				r := h.awaitN(breaches, "breach by core")
				if !strings.Contains(r["error"], a.says) {
					t.Errorf("%v, want %q", r, a.says)
				}
				core, _ := strconv.Atoi(r["core"])
				awaitGone(t, core)
			}
			eventually(t, "an honest core", func() bool { return executes(h.currentCore(), h.bin) })
			h.settled(before) // what they have started is ended
			if n := strings.Count(m.rest(), "\n"); n > tt.starts {
				t.Errorf("%d starts, want at most %d", n, tt.starts)
			}
			h.stop()
		})
	}
}
