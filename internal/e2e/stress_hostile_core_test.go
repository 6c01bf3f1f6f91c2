//go:build stress && linux

package e2e

import (
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// exitOver is the flag of an exit message that says that no process is left.
const exitOver = 1

// hear reads a message and returns its kind, 0 at the end, and its flags.
func (c *taken) hear() (kind, flags byte) {
	head := make([]byte, 13)
	if _, err := io.ReadFull(c.control, head); err != nil {
		return 0, 0
	}
	payload := make([]byte, binary.BigEndian.Uint32(head)-9)
	io.ReadFull(c.control, payload)
	if len(payload) > 4 {
		flags = payload[4]
	}
	return head[4], flags
}

// awaitRetire reads until another core has taken over.
func (c *taken) awaitRetire() {
	for {
		switch kind, _ := c.hear(); kind {
		case 0:
			os.Exit(1)
		case kindRetire:
			return
		}
	}
}

// sendFiles writes bytes and with them 250 descriptors of the first listener.
func (c *taken) sendFiles(b []byte) error {
	const coreFirst = 4
	fds := slices.Repeat([]int{coreFirst}, 250)
	return unix.Sendmsg(coreControl, b, unix.UnixRights(fds...), nil, 0)
}

// More plans of a compromised core. They are set before the first init(), which
// executes the plan.
var _ = func() bool {
	maps.Copy(plans, map[string]func(*taken){
		"many descriptors": func(c *taken) {
			for id := uint64(1); id <= 40; id++ {
				if c.sendFiles(frameBytes(kindSpool, id, "")) != nil {
					break
				}
			}
			io.Copy(io.Discard, c.control)
		},
		"flood of cancels": func(c *taken) {
			go io.Copy(io.Discard, c.control)
			c.say(kindStart, 1000, startText)
			flood := []byte{}
			for id := range uint64(500) {
				flood = append(flood, frameBytes(kindCancel, id+1, "")...)
			}
			for {
				c.write(flood)
			}
		},
		// The largest number of requests, canceled at once, without end.
		"flood of starts": func(c *taken) {
			running := 0
			for id := uint64(1); ; {
				for ; running < c.maxProcs; running++ {
					c.say(kindStart, id, startText)
					c.say(kindCancel, id, "")
					id++
				}
				switch kind, flags := c.hear(); {
				case kind == 0:
					select {}
				case kind == kindFailed, kind == kindOver, kind == kindExited && flags&exitOver != 0:
					running--
				}
			}
		},
		"flood of files": func(c *taken) {
			for id := uint64(1); ; id++ {
				c.say(kindSpool, id, "")
			}
		},
		"flood of counters": func(c *taken) {
			go io.Copy(io.Discard, c.control)
			for {
				c.say(kindStats, 0, strings.Repeat("\xff", 40))
			}
		},
		// Behaves until it is replaced, and then stops reading.
		"unresponsive": func(c *taken) {
			c.awaitRetire()
			for id := uint64(1); ; id++ {
				c.say(kindSpool, id, "")
			}
		},
		// Exits as soon as it serves.
		"dies": func(*taken) { os.Exit(9) },
	})
	return true
}()

// honest waits until the real core serves.
func (h *hijacked) honest() {
	h.t.Helper()
	eventually(h.t, "an honest core", func() bool {
		rec := h.status()
		n, _ := strconv.Atoi(rec["core"])
		return n > 0 && executes(n, h.bin)
	})
}

// responsive requests a status record.
func (h *hijacked) responsive(when string) {
	h.t.Helper()
	began := time.Now()
	h.status()
	if took := time.Since(began); took > time.Second+slack/2 {
		off(h.t, "%s: status line after %v, want it within a second", when, took)
	}
}

const probeText = `
printenv >>"%[1]s/env"
echo started >>"%[1]s/starts"
case $QUERY_STRING in
sleep) exec sleep 100 ;;
esac
echo "$PATH_INFO -"
`

// The monitor tolerates what is not a protocol violation and goes on working.
// It replaces the core at a reload, or when the core does not read.
func TestStressHostileCoreFloods(t *testing.T) {
	storm(t)
	needRoot(t, "it counts the descriptors of processes that are closed to their own user")
	for _, tt := range []struct {
		plan string
		ends string // the record of its exit; if empty, a reload ends it
	}{
		{"flood of cancels", ""},
		{"flood of starts", ""},
		{"silent", ""},
		{"many descriptors", ""},
		{"flood of files", "core connection failed"},
		{"half a frame", "core died"},
		{"flood of counters", ""},
	} {
		t.Run(tt.plan, func(t *testing.T) {
			t.Parallel()
			work := newDir(t, nil)
			h := hijack(t, "-max-procs", "4", "-kill-after", "300ms", "-drain", "500ms", "--",
				script(t, work, "probe", fmt.Sprintf(probeText, work)))
			before := usageOf(t, h.pid)
			core := h.take(tt.plan)
			most := 0
			for range 5 {
				h.responsive("under attack")
				most = max(most, len(descriptors(t, h.pid)))
				time.Sleep(50 * time.Millisecond)
			}
			if tt.ends == "" {
				h.signal(syscall.SIGHUP)
				h.await("core replaced", "old", strconv.Itoa(core))
				h.responsive("beside the honest core")
				h.get("/after").want(t, 200, "/after -\n")
				// A retired core exits only when its connections are closed, or
				// at a stop.
			} else {
				h.await(tt.ends, "core", strconv.Itoa(core))
				awaitGone(t, core)
				h.honest()
				h.get("/after").want(t, 200, "/after -\n")
				h.settled(before.descriptors)
			}
			held := usageOf(t, h.pid)
			t.Logf("monitor: %d descriptors and %d KiB before, at most %d descriptors during, %d KiB after",
				before.descriptors, before.kib, most, held.kib)
			if held.kib > before.kib+64<<10 && !raceEnabled {
				off(t, "the monitor has grown from %d to %d KiB", before.kib, held.kib)
			}
			h.stop()
		})
	}
}

// If cores die as soon as they serve, the delay before the next one grows.
func TestStressCoreBackoff(t *testing.T) {
	storm(t)
	h := hijack(t, "--", trueProgram)
	pose(t, h.bin, "dies")
	h.signal(syscall.SIGHUP)
	var times []time.Time
	for i := range count(2, 5) {
		at, err := time.Parse(time.RFC3339Nano, h.awaitN(i+1, "core died", "exit", "exit 9")["time"])
		if err != nil {
			t.Fatal(err)
		}
		times = append(times, at)
	}
	least := 100 * time.Millisecond
	for i := 1; i < len(times); i++ {
		gap := times[i].Sub(times[i-1])
		t.Logf("death %d after %v", i+1, gap)
		if gap < least-5*time.Millisecond {
			off(t, "death %d after %v, want at least %v", i+1, gap, least)
		}
		least *= 2
	}
	h.stop()
}

// A retired core that does not read is killed like any other.
func TestStressRetiredCoreUnresponsive(t *testing.T) {
	storm(t)
	long(t, "a core has 30 s to show that it is alive")
	t.Parallel()
	h := hijack(t, "--", trueProgram)
	core := h.take("unresponsive")
	h.signal(syscall.SIGHUP)
	h.await("core replaced", "old", strconv.Itoa(core))
	began := time.Now()
	awaitGone(t, core)
	t.Logf("ended after %v", time.Since(began).Round(100*time.Millisecond))
	h.get("/").want(t, 200, "")
	h.stop()
}
