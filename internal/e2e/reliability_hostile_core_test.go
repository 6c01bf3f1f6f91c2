//go:build linux

package e2e

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/onewake/onewake/spawn"
)

// A core that has been taken over: this test underTest, put in the place of
// onewake and executed by an honest monitor at a reload. What it is to do is in
// a file beside it. It sees what a core sees and can do more, since it is not
// confined.
func init() {
	if os.Args[0] == coreName {
		os.Exit(hostileCore())
	}
}

// Kinds of messages, see spawn/message.go.
const (
	kindReady byte = 1 + iota
	kindStart
	kindEnd
	kindSpool
	kindClosed
	kindStats
	kindConfig
	kindStarted
	kindFailed
	kindExited
	kindSpooled
	kindNoSpool
	kindRetire
)

func frameBytes(kind byte, id uint64, payload string) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(9+len(payload)))
	b = append(b, kind)
	b = binary.BigEndian.AppendUint64(b, id)
	return append(b, payload...)
}

// hostileCore does what the plan says and then waits for its end.
func hostileCore() int {
	exe, err := os.Executable()
	if err != nil {
		return 1
	}
	dir := filepath.Dir(exe)
	plan, err := os.ReadFile(filepath.Join(dir, "plan"))
	if err != nil {
		return 1
	}
	control := os.NewFile(coreControl, "control")
	head := make([]byte, 13)
	io.ReadFull(control, head)
	config := make([]byte, binary.BigEndian.Uint32(head)-9)
	io.ReadFull(control, config)
	_, text, _ := strings.Cut(string(config), "\x00")
	var cfg struct{ MaxProcs int }
	json.Unmarshal([]byte(text), &cfg)
	say := func(kind byte, id uint64, payload string) {
		if _, err := control.Write(frameBytes(kind, id, payload)); err != nil {
			// Killed in a moment. An exit would be less of an attack.
			select {}
		}
	}
	say(kindReady, 0, spawn.Version+"\x00taken over")
	what, arg, _ := strings.Cut(string(plan), " ")
	switch what {
	case "frame":
		q, _ := strconv.Unquote(arg)
		control.WriteString(q)
	case "halfframe":
		control.Write(frameBytes(kindStart, 1, "\x00QUERY_STRING=x\x00")[:20])
		return 0
	case "toomany":
		for id := range uint64(cfg.MaxProcs + 1) {
			say(kindStart, id+1, "\x00QUERY_STRING=sleep\x00")
		}
	case "descriptors":
		// A thousand of them, at a frame that is harmless.
		fds := make([]int, 250)
		for i := range fds {
			fds[i] = coreFirst
		}
		for range 4 {
			unix.Sendmsg(coreControl, frameBytes(kindEnd, 0, ""), unix.UnixRights(fds...), nil, 0)
		}
	case "manydescriptors":
		fds := make([]int, 250)
		for i := range fds {
			fds[i] = coreFirst
		}
		for id := uint64(1); ; id++ {
			if err := unix.Sendmsg(coreControl, frameBytes(kindSpool, id, ""), unix.UnixRights(fds...), nil, 0); err != nil {
				break
			}
			if id == 40 {
				os.WriteFile(filepath.Join(dir, "done"), nil, 0o644)
				break
			}
		}
		io.Copy(io.Discard, control)
	case "floodends":
		go io.Copy(io.Discard, control)
		say(kindStart, 1000, "\x00QUERY_STRING=x\x00")
		flood := []byte{}
		for id := range uint64(500) {
			flood = append(flood, frameBytes(kindEnd, id+1, "")...)
		}
		for {
			if _, err := control.Write(flood); err != nil {
				select {}
			}
		}
	case "floodstarts":
		// As many as there may be, ended at once, for ever.
		running := 0
		for id := uint64(1); ; {
			for ; running < cfg.MaxProcs; running++ {
				say(kindStart, id, "\x00QUERY_STRING=x\x00")
				say(kindEnd, id, "")
				id++
			}
			if _, err := io.ReadFull(control, head); err != nil {
				select {}
			}
			io.CopyN(io.Discard, control, int64(binary.BigEndian.Uint32(head))-9)
			if head[4] == kindFailed || head[4] == kindExited {
				running--
			}
		}
	case "floodspool":
		for id := uint64(1); ; id++ {
			say(kindSpool, id, "")
		}
	case "floodstats":
		go io.Copy(io.Discard, control)
		for {
			say(kindStats, 0, strings.Repeat("\xff", 48))
		}
	case "deaf":
		// Behaves until it has been replaced, and reads nothing then.
		if !awaitRetire(control) {
			return 1
		}
		for id := uint64(1); ; id++ {
			say(kindSpool, id, "")
		}
	case "afterwards":
		// Behaves until it has been replaced, and is told to misbehave.
		if !awaitRetire(control) {
			return 1
		}
		for {
			if _, err := os.Stat(filepath.Join(dir, "go")); err == nil {
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
		// Counters are the answer to the last question, then its last
		// word, and then unasked.
		for range 3 {
			say(kindStats, 0, strings.Repeat("\x00", 48))
		}
	case "leak":
		// Hands a copy of the listener to the first client, then gives
		// itself away.
		for {
			fd, _, err := unix.Accept(coreFirst)
			if err == unix.EAGAIN {
				time.Sleep(time.Millisecond)
				continue
			}
			if err != nil {
				return 1
			}
			unix.Sendmsg(fd, []byte("take this"), unix.UnixRights(coreFirst, coreFirst+1), nil, 0)
			time.Sleep(100 * time.Millisecond)
			break
		}
		say(99, 0, "")
	}
	select {}
}

// awaitRetire reads until a successor has taken over, and false if there is
// nothing more to read.
func awaitRetire(control io.Reader) bool {
	head := make([]byte, 13)
	for head[4] != kindRetire {
		if _, err := io.ReadFull(control, head); err != nil {
			return false
		}
		io.CopyN(io.Discard, control, int64(binary.BigEndian.Uint32(head))-9)
	}
	return true
}

// hijacked is a server whose core can be replaced by a hostile one.
type hijacked struct {
	*server
	bin, plan string
}

func hijack(t *testing.T, args ...string) *hijacked {
	t.Helper()
	bin := filepath.Join(newDir(t, nil), "onewake")
	if err := replace(bin, underTest); err != nil {
		t.Fatal(err)
	}
	h := &hijacked{launch{bin: bin, args: args}.start(t), bin, filepath.Join(filepath.Dir(bin), "plan")}
	h.troubles = true
	return h
}

// replace puts one program in the place of another, as an upgrade does.
func replace(path, by string) error {
	if os.Link(by, path+".new") != nil {
		return copyFile(path, by, 0o755)
	}
	return os.Rename(path+".new", path)
}

// take replaces the core by a hostile one, once.
func (h *hijacked) take(plan string) (core int) {
	h.t.Helper()
	path, err := self()
	if err == nil {
		err = os.WriteFile(h.plan, []byte(plan), 0o644)
	}
	if err == nil {
		err = replace(h.bin, path)
	}
	if err != nil {
		h.t.Fatal(err)
	}
	h.signal(syscall.SIGHUP)
	core, _ = strconv.Atoi(h.await("core replaced")["core"])
	if err := replace(h.bin, underTest); err != nil {
		h.t.Fatal(err)
	}
	return core
}

// honest waits for a core that is honest again.
func (h *hijacked) honest() {
	h.t.Helper()
	eventually(h.t, "an honest core", func() bool {
		rec := h.status()
		n, _ := strconv.Atoi(rec["core"])
		return n > 0 && executes(n, h.bin)
	})
}

// responsive asks for the status line.
func (h *hijacked) responsive(when string) {
	h.t.Helper()
	began := time.Now()
	h.status()
	if took := time.Since(began); took > time.Second+patience/8 {
		h.t.Errorf("%s: status line after %v, want it within a second", when, took)
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

// Whatever a core says that no honest core says ends it, starts nothing, and
// leaves nothing behind.
func TestHostileCoreBreaches(t *testing.T) {
	needRoot(t, "it counts the descriptors of processes that are closed to their own user")
	const ok = "\x00QUERY_STRING=x\x00"
	start := func(id uint64, payload string) string {
		return "frame " + strconv.Quote(string(frameBytes(kindStart, id, payload)))
	}
	raw := func(frames ...[]byte) string { return "frame " + strconv.Quote(string(slices.Concat(frames...))) }
	type attack struct {
		name, plan string
		starts     int // how many harmless starts it begins with
	}
	attacks := []attack{
		{"flags", start(1, "\x04QUERY_STRING=x\x00"), 0},
		{"no flags", start(1, ""), 0},
		{"no end", start(1, "\x00QUERY_STRING=x"), 0},
		{"no equals sign", start(1, "\x00QUERY_STRING\x00"), 0},
		{"large variable", start(1, "\x00QUERY_STRING="+strings.Repeat("x", spawn.MaxVar)+"\x00"), 0},
		{"number 0", start(0, ok), 0},
		{"number again", raw(frameBytes(kindStart, 7, ok), frameBytes(kindStart, 7, ok)), 1},
		{"number back", raw(frameBytes(kindStart, 7, ok), frameBytes(kindStart, 6, ok)), 1},
		{"spool number 0", raw(frameBytes(kindSpool, 0, "")), 0},
		{"spool with more", raw(frameBytes(kindSpool, 1, "/etc/passwd")), 0},
		{"end of what never began", raw(frameBytes(kindEnd, 1, "")), 0},
		{"end of what will begin", raw(frameBytes(kindStart, 7, ok), frameBytes(kindEnd, 8, "")), 1},
		{"end of a pid", raw(frameBytes(kindEnd, 1, "\x00\x00\x00\x01")), 0},
		{"frame of 4 GB", "frame " + strconv.Quote("\xff\xff\xff\xff\x02"), 0},
		{"frame of 1 MB", "frame " + strconv.Quote("\x00\x10\x00\x00\x02"), 0},
		{"frame of nothing", "frame " + strconv.Quote("\x00\x00\x00\x00"), 0},
		{"frame too short", "frame " + strconv.Quote("\x00\x00\x00\x05\x02aaaa"), 0},
		{"kind 0", raw(frameBytes(0, 0, "")), 0},
		{"kind of the monitor", raw(frameBytes(kindConfig, 0, "1\x00{}")), 0},
		{"kind 99", raw(frameBytes(99, 0, "")), 0},
		{"ready twice", raw(frameBytes(kindReady, 0, spawn.Version+"\x00again")), 0},
		{"long ready", raw(frameBytes(kindReady, 0, spawn.Version+"\x00"+strings.Repeat("x", 1000))), 0},
		{"short counters", raw(frameBytes(kindStats, 0, "x")), 0},
		{"counters unasked", raw(frameBytes(kindStats, 0, strings.Repeat("\xff", 48))), 0},
		{"requests at once", "toomany", 4},
		{"a thousand descriptors", "descriptors", 0},
	}
	for _, name := range []string{
		"PATH", "LD_PRELOAD", "LD_LIBRARY_PATH", "IFS", "ENV", "BASH_ENV", "BASH_FUNC_sleep%%", "HOME", "SHELLOPTS",
		"GODEBUG", "HTTP_PROXY", "HTTP_", "HTTP_x", "HTTP_A-B", "HTTP_A\n", "", "REMOTE_USER", "AUTH_TYPE", "query_string", "FIXED",
	} {
		attacks = append(attacks, attack{"variable " + strconv.Quote(name), start(1, ok[:1]+name+"=/tmp/evil\x00"), 0})
	}
	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			t.Parallel()
			work := newDir(t, nil)
			h := hijack(t, "-env", "FIXED=fixed", "-max-procs", "4", "-kill-after", "300ms", "--",
				script(t, work, "probe", fmt.Sprintf(probeText, work)))
			before := holds(t, h.pid)
			old := inode(t, h.path)
			core := h.take(a.plan)
			h.await("breach by core", "core", strconv.Itoa(core))
			h.responsive("after a breach")
			awaitGone(t, core)
			h.honest()
			h.get("/after").want(t, 200, "/after -\n")
			h.settled(before)
			if now := inode(t, h.path); now == old {
				t.Error("the socket is the one that the hostile core had")
			}
			// One for the request after it. A second hostile core may have
			// been started before the honest binary was back.
			again := len(h.find("breach by core"))
			b, _ := os.ReadFile(filepath.Join(work, "starts"))
			if n := strings.Count(string(b), "\n"); n > a.starts*again+1 {
				t.Errorf("%d starts, want at most %d", n, a.starts*again+1)
			}
			env, _ := os.ReadFile(filepath.Join(work, "env"))
			for line := range strings.Lines(string(env)) {
				if strings.Contains(line, "evil") {
					t.Errorf("the command was given %s", line)
				}
			}
			h.stop()
		})
	}
}

// What is no breach is borne, and ended by a reload or by not being read: the
// monitor goes on doing its work.
func TestHostileCoreFloods(t *testing.T) {
	needRoot(t, "it counts the descriptors of processes that are closed to their own user")
	for _, tt := range []struct {
		plan string
		ends string // the record of its end; empty: a reload ends it
	}{
		{"floodends", ""},
		{"floodstarts", ""},
		{"silent", ""},
		{"manydescriptors", ""},
		{"floodspool", "core is gone or stuck"},
		{"halfframe", "core died"},
		{"floodstats", "breach by core"},
	} {
		t.Run(tt.plan, func(t *testing.T) {
			t.Parallel()
			work := newDir(t, nil)
			h := hijack(t, "-max-procs", "4", "-kill-after", "300ms", "-drain", "500ms", "--",
				script(t, work, "probe", fmt.Sprintf(probeText, work)))
			before := holds(t, h.pid)
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
				// It need not go: nothing makes a retired core end but its
				// connections. A stop does.
			} else {
				h.await(tt.ends, "core", strconv.Itoa(core))
				awaitGone(t, core)
				h.honest()
				h.get("/after").want(t, 200, "/after -\n")
				h.settled(before)
			}
			held := holds(t, h.pid)
			t.Logf("monitor: %d descriptors and %d KiB before, at most %d descriptors during, %d KiB after",
				before.descriptors, before.kib, most, held.kib)
			if held.kib > before.kib+64<<10 && !raceEnabled {
				t.Errorf("the monitor has grown from %d to %d KiB", before.kib, held.kib)
			}
			h.stop()
		})
	}
}

// Hostile cores in a row are started further and further apart.
func TestHostileCoreBackoff(t *testing.T) {
	h := hijack(t, "--", trueProgram)
	path, err := self()
	if err == nil {
		err = os.WriteFile(h.plan, []byte("frame "+strconv.Quote(string(frameBytes(99, 0, "")))), 0o644)
	}
	if err == nil {
		err = replace(h.bin, path)
	}
	if err != nil {
		t.Fatal(err)
	}
	h.signal(syscall.SIGHUP)
	var times []time.Time
	for i := range 5 {
		at, err := time.Parse(time.RFC3339Nano, h.awaitN(i+1, "breach by core")["time"])
		if err != nil {
			t.Fatal(err)
		}
		times = append(times, at)
	}
	least := 100 * time.Millisecond
	for i := 1; i < len(times); i++ {
		gap := times[i].Sub(times[i-1])
		t.Logf("breach %d after %v", i+1, gap)
		if gap < least-5*time.Millisecond {
			t.Errorf("breach %d after %v, want at least %v", i+1, gap, least)
		}
		least *= 2
	}
	h.stop()
}

// A core that misbehaves only once it has been replaced takes its successor's
// listeners away, since they are the ones it had; nobody whom that one had begun
// to answer is cut off.
func TestHostileCoreAfterReload(t *testing.T) {
	for _, reloading := range []bool{false, true} {
		t.Run(map[bool]string{false: "at rest", true: "beside another reload"}[reloading], func(t *testing.T) {
			t.Parallel()
			h := hijack(t, "-timeout", "30s", "--", script(t, newDir(t, nil), "echo", echoText))
			hostile := h.take("afterwards")
			h.signal(syscall.SIGHUP)
			successor, _ := strconv.Atoi(h.await("core replaced", "old", strconv.Itoa(hostile))["core"])
			slow := dial(t, h.addr).send("%s", get11("/slow?sleep=2"))
			kept := dial(t, h.addr).send("%s", text11("GET", "/kept"))
			kept.answer("GET").want(t, 200, "/kept -\n")
			eventually(t, "a slow request", func() bool { return h.status()["running"] == "1" })
			standby := 0
			if reloading {
				if err := writeProgram(h.bin, []byte("#!/bin/sh\nexec sleep 100\n"), 0o755); err != nil {
					t.Fatal(err)
				}
				h.signal(syscall.SIGHUP)
				eventually(t, "a core that is never ready", func() bool {
					for _, pid := range childrenOf(h.pid) {
						if b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); strings.HasPrefix(string(b), "sleep\x00") {
							standby = pid
						}
					}
					return standby > 0
				})
				if err := replace(h.bin, underTest); err != nil {
					t.Fatal(err)
				}
			}
			old := inode(t, h.path)
			os.WriteFile(filepath.Join(filepath.Dir(h.bin), "go"), nil, 0o644)
			h.await("breach by core", "core", strconv.Itoa(hostile))
			eventually(t, "a new socket", func() bool {
				var st unix.Stat_t
				return unix.Lstat(h.path, &st) == nil && st.Ino != old
			})
			awaitServing(t, h.addr) // it is bound a moment before it listens
			// Whoever comes now is served by another one yet.
			h.get("/after").want(t, 200, "/after -\n")
			if core := h.currentCore(); core == successor || core == standby || !executes(core, h.bin) {
				t.Errorf("core %d serves, after %d and %d", core, hostile, successor)
			}
			awaitGone(t, hostile)
			if reloading {
				awaitGone(t, standby)
				if n := len(h.find("core is not ready in time")); n > 0 {
					t.Error("the standby was waited for")
				}
			}
			slow.answer("GET").want(t, 200, "/slow -\n")
			kept.trySend(text11("GET", "/kept")).answer("GET").want(t, 200, "/kept -\n")
			awaitGone(t, successor)
			if n := len(h.find("core died", "core", strconv.Itoa(successor))); n > 0 {
				t.Error("the successor was killed in place of retired")
			}
			h.stop()
		})
	}
}

// A core that was replaced and goes on is not borne for ever.
func TestRetiredCoreEnds(t *testing.T) {
	if os.Getenv(envLong) != "1" {
		t.Skipf("takes two minutes (%s=1)", envLong)
	}
	t.Parallel()
	h := hijack(t, "-timeout", "1s", "-kill-after", "300ms", "--", trueProgram)
	core := h.take("silent")
	began := time.Now()
	h.signal(syscall.SIGHUP)
	h.await("core replaced", "old", strconv.Itoa(core))
	for !isGone(core) {
		if time.Since(began) > 2*time.Minute+20*time.Second {
			t.Fatal("it goes on")
		}
		time.Sleep(100 * time.Millisecond)
	}
	took := time.Since(began)
	t.Logf("ended after %v", took.Round(100*time.Millisecond))
	if took < 2*time.Minute {
		t.Errorf("a retired core had only %v", took)
	}
	h.await("retired core does not end", "core", strconv.Itoa(core))
	h.get("/").want(t, 200, "")
	h.stop()
}

// One that was replaced and does not read what it is sent is given up as any.
func TestRetiredCoreDeaf(t *testing.T) {
	t.Parallel()
	h := hijack(t, "--", trueProgram)
	core := h.take("deaf")
	h.signal(syscall.SIGHUP)
	h.await("core replaced", "old", strconv.Itoa(core))
	began := time.Now()
	awaitGone(t, core)
	t.Logf("ended after %v", time.Since(began).Round(100*time.Millisecond))
	h.get("/").want(t, 200, "")
	h.stop()
}

// A client that a hostile core has given a copy of the listener gets no more
// clients once the breach is known.
func TestLeakedListener(t *testing.T) {
	h := hijack(t, "--", trueProgram)
	h.take("leak")
	// The first may be one that the core before it has let in.
	var msgs []unix.SocketControlMessage
	for range 10 {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		if err := unix.Connect(fd, &unix.SockaddrUnix{Name: h.path}); err != nil {
			t.Fatal(err)
		}
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 2})
		oob := make([]byte, 64)
		_, n, _, _, err := unix.Recvmsg(fd, make([]byte, 64), oob, unix.MSG_CMSG_CLOEXEC)
		if err == nil && n > 0 {
			if msgs, err = unix.ParseSocketControlMessage(oob[:n]); err != nil {
				t.Fatal(err)
			}
			break
		}
	}
	if len(msgs) != 1 {
		t.Fatalf("%d messages with descriptors", len(msgs))
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 2 {
		t.Fatal(fds, err)
	}
	leaked, lock := fds[0], fds[1]
	defer unix.Close(leaked)
	unix.SetNonblock(leaked, true)
	old := inode(t, h.path)
	h.await("breach by core")
	eventually(t, "a new socket", func() bool {
		var st unix.Stat_t
		return unix.Lstat(h.path, &st) == nil && st.Ino != old
	})
	awaitServing(t, h.addr)
	for {
		// Whoever connected before.
		if c, _, err := unix.Accept(leaked); err == nil {
			unix.Close(c)
			continue
		}
		break
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 25 {
				c, err := dialErr(h.addr)
				if err != nil {
					t.Error(err)
					return
				}
				cl := &conn{Conn: c, t: t, r: bufio.NewReader(c)}
				cl.trySend(get11("/"))
				if a, err := cl.tryAnswer("GET"); err != nil || a.status != 200 {
					t.Errorf("%v, %v", a, err)
				}
				c.Close()
			}
		})
	}
	wg.Wait()
	if c, _, err := unix.Accept(leaked); err != unix.EAGAIN {
		unix.Close(c)
		t.Errorf("accept(2) on the leaked listener: %v, want EAGAIN", err)
	}
	// The copy of the lock keeps nobody out: a stop gives it back for all.
	defer unix.Close(lock)
	h.stop()
	again := launch{dir: h.dir, args: []string{"-listen", "unix:" + h.path, "--", trueProgram}}
	s := again.start(t)
	s.stop()
}

func inode(t *testing.T, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}
