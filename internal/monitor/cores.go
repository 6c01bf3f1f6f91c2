package monitor

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/onewake/onewake/internal/control"
	coreprocess "github.com/onewake/onewake/internal/core"
	"github.com/onewake/onewake/internal/process"
	"github.com/onewake/onewake/internal/scripts"
)

const (
	// maxFailures is how many cores in a row may end before they are ready.
	maxFailures = 3
	// maxBackoff is the longest time before another core is started.
	maxBackoff = 30 * time.Second
	// maxMissed is how many heartbeats in a row a stuck core has missed.
	maxMissed = 3
)

// state is the life of a core, in one word.
type state uint8

const (
	starting state = iota
	serving
	retiring // it has a successor, or the service stops
	dead     // it has been told to die, or has; nothing that it says counts
)

// core is one core, as the monitor sees it.
type core struct {
	m      *monitor
	pid    int
	group  *process.Group
	peer   *control.Peer
	state  state
	since  time.Time      // it has served
	pulse  *process.Timer // kills it, if it is not ready or does not beat
	missed int            // heartbeats in a row
	last   *process.Timer // kills it, if it has retired and does not end
	stats  control.Stats
	names  scripts.Names // that it has been told
}

// startCore starts a core: with an empty environment, and no descriptor but
// those it needs.
func (m *monitor) startCore() error {
	set := m.setup()
	setup, err := json.Marshal(set)
	if err != nil {
		return err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return os.NewSyscallError("socketpair", err)
	}
	defer unix.Close(pair[1])
	unix.CloseOnExec(pair[0]) // nobody else forks
	unix.CloseOnExec(pair[1])
	c := &core{m: m, names: set.Names}
	if c.peer, err = control.NewPeer(pair[0], m.loop, m.sup, m.peerOptions()); err != nil {
		unix.Close(pair[0])
		return err
	}
	files := []uintptr{2, uintptr(pair[1])}
	for _, l := range m.listeners {
		files = append(files, fileFD(l.File()))
	}
	for _, l := range m.listeners {
		if f := l.LockFile(); f != nil {
			files = append(files, fileFD(f))
		}
	}
	c.group, err = m.sup.StartOwn(&process.Command{Path: m.exe, Args: []string{coreprocess.Name}, Dir: "/"}, c, files...)
	if err != nil {
		c.peer.Close()
		return &os.PathError{Op: "start core", Path: m.exe, Err: err}
	}
	c.pid = c.group.PID()
	m.cores[c.pid] = c
	m.hear(c)
	c.pulse = m.loop.After(m.Times.Ready, func() {
		m.log.Error("core is not ready in time", "core", c.pid)
		m.kill(c)
	})
	if m.current == nil {
		m.current = c
	} else {
		m.next = c
	}
	c.peer.Configure(setup)
	return nil
}

// hear has what a core says come to the monitor.
func (m *monitor) hear(c *core) {
	c.peer.OnReady = func(sandbox string, err error) { m.coreReady(c, sandbox, err) }
	c.peer.OnFail = func(err error) { m.coreBroken(c, err) }
	c.peer.OnClosed = func() { m.coreClosed(c) }
	if m.table != nil {
		c.peer.OnScripts = func() []string { return m.scriptNames(c) }
	}
	c.peer.OnStats = func(s control.Stats) { m.coreStats(c, s) }
}

// coreReady puts a core to work, in the place of an older one if there is one.
func (m *monitor) coreReady(c *core, sandbox string, err error) {
	switch {
	case c.state != starting:
		m.coreBroken(c, fmt.Errorf("%w: ready twice", control.ErrProtocol))
		return
	case err != nil:
		m.log.Error("core speaks another control version", "core", c.pid, "error", err)
		m.kill(c)
		return
	}
	c.state, c.since = serving, time.Now()
	m.failures = 0
	m.awaitBeat(c)
	if c == m.next {
		old := m.current
		m.current, m.next = c, nil
		m.retire(old)
		m.log.Info("core replaced", "core", c.pid, "old", old.pid, "sandbox", sandbox)
	}
	if !m.started {
		m.started = true
		m.startRecord(sandbox)
	}
	m.reloadAgain()
}

// retire has a core finish what it has begun. How long that takes nobody can
// tell: an upload has no end as long as some of it comes in time, and a request
// may wait long for its turn. But one that has been taken over must not keep its
// copy of the listeners for good.
func (m *monitor) retire(c *core) {
	if c.state == dead {
		return
	}
	c.state = retiring
	c.peer.Retire()
	c.last = m.loop.After(m.Timeout+m.KillAfter+m.Times.Retired, func() {
		m.log.Error("retired core does not end", "core", c.pid)
		m.kill(c)
	})
}

// coreStats takes a core's counters, which are its heartbeat too.
func (m *monitor) coreStats(c *core, s control.Stats) {
	c.stats = s
	if c.state != starting { // the time to be ready goes on
		c.missed = 0
		m.awaitBeat(c)
	}
}

// awaitBeat counts the heartbeats that a core misses, and kills it after some. A
// machine that has stood still for long has missed one.
func (m *monitor) awaitBeat(c *core) {
	c.pulse.Stop()
	c.pulse = m.loop.After(m.Times.Heartbeat, func() {
		if c.missed++; c.missed < maxMissed {
			m.awaitBeat(c)
			return
		}
		m.log.Error("core is stuck", "core", c.pid)
		m.kill(c)
	})
}

func (m *monitor) coreClosed(c *core) {
	if m.phase != running && c == m.current {
		m.closeListeners()
	}
}

// coreBroken is told of a control socket that has ended or been misused. What
// the core has started is being ended already.
func (m *monitor) coreBroken(c *core, err error) {
	switch {
	case errors.Is(err, control.ErrProtocol):
		// Whatever has taken the core over may have handed the listeners on.
		m.log.Error("breach by core", "core", c.pid, "error", err)
		m.end(err)
	case c.state == retiring || m.phase != running:
		c.peer.Close() // it has finished its work, and is ending
	default:
		m.log.Error("core is gone or stuck", "core", c.pid, "error", err)
		m.kill(c)
	}
}

// kill ends a core at once. Nothing that it still says counts.
func (m *monitor) kill(c *core) {
	c.state = dead
	c.peer.Close()
	c.group.Kill()
}

// OnExit is told of the end of a core, and decides what comes next.
func (c *core) OnExit(st syscall.WaitStatus, _ bool) {
	m := c.m
	c.peer.Drain() // its last word
	delete(m.cores, c.pid)
	c.pulse.Stop()
	c.last.Stop()
	c.peer.Close()
	m.past.AddTotals(c.stats)
	meant := st.Exited() && st.ExitStatus() == 0 || c.state == dead
	if m.phase == running && c.state != retiring || !meant {
		m.log.Error("core died", "core", c.pid, "exit", control.Describe(st), "ready", !c.since.IsZero())
	}
	switch {
	case m.phase != running:
		if c == m.current {
			m.current = nil
			m.closeListeners()
		}
		if m.phase == draining {
			m.loop.After(0, m.endIfDone) // when the supervisor knows too
		}
	case c == m.next:
		m.next = nil
		m.log.Error("reload failed, the old core stays", "core", m.current.pid)
		m.reloadAgain()
	case c == m.current:
		m.current = nil
		m.coreLost(c, st)
	}
}

// OnOver is told when nothing is left of what a core had started.
func (c *core) OnOver() {}

// coreLost has another core take the place of one that died, at once or after a
// while.
func (m *monitor) coreLost(c *core, st syscall.WaitStatus) {
	m.restarts++
	if m.next != nil {
		// It is about to be ready; the clients can wait for it.
		m.current, m.next = m.next, nil
		return
	}
	if c.since.IsZero() && m.failed(fmt.Errorf("core ended before it was ready, the last time with %s", control.Describe(st))) {
		return
	}
	if !c.since.IsZero() && time.Since(c.since) >= m.Times.Backoff {
		m.backoff = 0
		m.loop.After(0, m.startAgain)
		return
	}
	m.startLater()
}

// startLater starts a core after a while, which is longer each time.
func (m *monitor) startLater() {
	m.backoff = min(max(2*m.backoff, m.Times.Backoff), maxBackoff)
	m.loop.After(m.backoff, m.startAgain)
}

// failed counts a core that never was ready, and ends the service after some.
func (m *monitor) failed(err error) bool {
	if m.failures++; m.failures < maxFailures {
		return false
	}
	m.end(fmt.Errorf("%d times in a row: %w", maxFailures, err))
	return true
}

// startAgain starts a core where there is none. For want of something that may
// come back it tries again, for ever.
func (m *monitor) startAgain() {
	if m.phase != running || m.current != nil {
		return
	}
	err := m.startCore()
	if err == nil {
		return
	}
	m.log.Error("cannot start a core", "error", err)
	if !control.IsTemporary(err) && m.failed(fmt.Errorf("core cannot be started: %v", err)) {
		return
	}
	m.startLater()
}

// reload starts a core from the binary that is on disk now.
func (m *monitor) reload() {
	switch {
	case m.phase != running:
	case m.next != nil || m.current == nil || m.current.state != serving:
		m.again = true
	default:
		m.log.Info("reload", "core", m.current.pid)
		if m.table != nil {
			m.readScripts()
		}
		if err := m.startCore(); err != nil {
			m.log.Error("reload failed, the old core stays", "core", m.current.pid, "error", err)
		}
	}
}

// reloadAgain does the reload that was asked for during another.
func (m *monitor) reloadAgain() {
	if m.again && m.next == nil && m.current != nil && m.current.state == serving {
		m.again = false
		m.reload()
	}
}

// fileFD is the number of a file's descriptor. File.Fd would make it blocking.
func fileFD(f *os.File) uintptr {
	var n uintptr
	if rc, err := f.SyscallConn(); err == nil {
		rc.Control(func(fd uintptr) { n = fd })
	}
	return n
}
