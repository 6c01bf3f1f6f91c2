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
	maxFailures = 3                // failed starts in a row before the service fails
	maxBackoff  = 30 * time.Second // longest delay before a restart
	maxMissed   = 3                // missed heartbeats in a row before a core is killed
)

// state is the state of a core.
type state uint8

const (
	starting state = iota
	serving
	retiring // another core has taken over, or the service stops
	dead     // killed; its messages are ignored
)

// core is a core process.
type core struct {
	m       *monitor
	pid     int
	group   *process.Group
	peer    *control.Peer
	state   state
	ready   time.Time      // when it became ready, or zero
	timeout *process.Timer // for becoming ready, and then for the next heartbeat
	missed  int            // missed heartbeats in a row
	retired *process.Timer // for exiting after it has retired
	stats   control.Stats  // the last ones received
	names   scripts.Names  // the last ones sent
}

// startCore starts a core with an empty environment and only the descriptors that
// it needs.
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
	unix.CloseOnExec(pair[0]) // no other thread forks
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
	m.setHandlers(c)
	c.timeout = m.loop.After(m.Times.Ready, func() {
		m.log.Error("core was not ready in time", "core", c.pid)
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

// setHandlers sets the handlers of messages from a core.
func (m *monitor) setHandlers(c *core) {
	c.peer.OnReady = func(sandbox string, err error) { m.coreReady(c, sandbox, err) }
	c.peer.OnFail = func(err error) { m.coreFailed(c, err) }
	c.peer.OnClosed = func() { m.coreClosed(c) }
	if m.table != nil {
		c.peer.OnScripts = func() []string { return m.scriptNames(c) }
	}
	c.peer.OnStats = func(s control.Stats) { m.coreStats(c, s) }
}

// coreReady makes a core the serving one and retires the old one.
func (m *monitor) coreReady(c *core, sandbox string, err error) {
	switch {
	case c.state != starting:
		m.coreFailed(c, fmt.Errorf("%w: ready twice", control.ErrProtocol))
		return
	case err != nil:
		m.log.Error("core speaks another control version", "core", c.pid, "error", err)
		m.kill(c)
		return
	}
	c.state, c.ready = serving, time.Now()
	m.failures = 0
	m.awaitHeartbeat(c)
	if c == m.next {
		old := m.current
		m.current, m.next = c, nil
		m.retire(old)
		m.log.Info("core replaced", "core", c.pid, "old", old.pid, "sandbox", sandbox)
	}
	if !m.started {
		m.started = true
		m.logStart(sandbox)
	}
	m.reloadIfPending()
}

// retire makes a core exit when its requests are over. That can take long, because
// an upload may go on for as long as some of it arrives in time. But a compromised
// core must not keep its copies of the listeners forever.
func (m *monitor) retire(c *core) {
	if c.state == dead {
		return
	}
	c.state = retiring
	c.peer.Retire()
	c.retired = m.loop.After(m.Timeout+m.KillAfter+m.Times.Retired, func() {
		m.log.Error("retired core does not exit", "core", c.pid)
		m.kill(c)
	})
}

// coreStats handles the counters of a core, which are its heartbeat.
func (m *monitor) coreStats(c *core, s control.Stats) {
	c.stats = s
	if c.state != starting { // the timeout for becoming ready must stay
		c.missed = 0
		m.awaitHeartbeat(c)
	}
}

// awaitHeartbeat kills a core after maxMissed heartbeats. It counts them instead of
// using one long timeout: when a suspended machine resumes, only one is missed.
func (m *monitor) awaitHeartbeat(c *core) {
	c.timeout.Stop()
	c.timeout = m.loop.After(m.Times.Heartbeat, func() {
		if c.missed++; c.missed < maxMissed {
			m.awaitHeartbeat(c)
			return
		}
		m.log.Error("core is unresponsive", "core", c.pid)
		m.kill(c)
	})
}

func (m *monitor) coreClosed(c *core) {
	if m.phase != running && c == m.current {
		m.closeListeners()
	}
}

// coreFailed handles the failure of a control socket. The peer terminates the
// commands of the core.
func (m *monitor) coreFailed(c *core, err error) {
	switch {
	case errors.Is(err, control.ErrProtocol):
		// A compromised core may have passed on the listeners.
		m.log.Error("protocol violation by core", "core", c.pid, "error", err)
		m.fail(err)
	case c.state == retiring || m.phase != running:
		c.peer.Close() // the core is exiting
	default:
		m.log.Error("core connection failed", "core", c.pid, "error", err)
		m.kill(c)
	}
}

// kill kills a core and ignores its messages from now on.
func (m *monitor) kill(c *core) {
	c.state = dead
	c.peer.Close()
	c.group.Kill()
}

// OnExit handles the exit of a core.
func (c *core) OnExit(st syscall.WaitStatus, _ bool) {
	m := c.m
	c.peer.Drain() // last messages
	delete(m.cores, c.pid)
	c.timeout.Stop()
	c.retired.Stop()
	c.peer.Close()
	m.totals.AddTotals(c.stats)
	expected := st.Exited() && st.ExitStatus() == 0 || c.state == dead
	if m.phase == running && c.state != retiring || !expected {
		m.log.Error("core died", "core", c.pid, "exit", control.Describe(st), "ready", !c.ready.IsZero())
	}
	switch {
	case m.phase != running:
		if c == m.current {
			m.current = nil
			m.closeListeners()
		}
		if m.phase == draining {
			m.loop.After(0, m.exitIfNoCores) // after the supervisor has handled the exit
		}
	case c == m.next:
		m.next = nil
		m.log.Error("reload failed, the old core stays", "core", m.current.pid)
		m.reloadIfPending()
	case c == m.current:
		m.current = nil
		m.replace(c, st)
	}
}

// OnEmpty implements [process.Handler].
func (c *core) OnEmpty() {}

// replace replaces a core that died.
func (m *monitor) replace(c *core, st syscall.WaitStatus) {
	m.restarts++
	switch {
	case m.next != nil: // it will be ready soon
		m.current, m.next = m.next, nil
	case c.ready.IsZero():
		m.startFailed(fmt.Errorf("core exited before it was ready, the last time with %s", control.Describe(st)))
	case time.Since(c.ready) < m.Times.Backoff:
		m.restartLater()
	default:
		m.backoff = 0
		m.loop.After(0, m.restart)
	}
}

// restartLater starts a core after a delay, which doubles each time.
func (m *monitor) restartLater() {
	m.backoff = min(max(2*m.backoff, m.Times.Backoff), maxBackoff)
	m.loop.After(m.backoff, m.restart)
}

// startFailed tries again later. After maxFailures in a row the service fails.
func (m *monitor) startFailed(err error) {
	if m.failures++; m.failures < maxFailures {
		m.restartLater()
		return
	}
	m.fail(fmt.Errorf("%d times in a row: %w", maxFailures, err))
}

// restart starts a core if there is none. If the system is short of resources it
// tries again without a limit.
func (m *monitor) restart() {
	if m.phase != running || m.current != nil {
		return
	}
	err := m.startCore()
	if err == nil {
		return
	}
	m.log.Error("cannot start a core", "error", err)
	if control.IsTemporary(err) {
		m.restartLater()
	} else {
		m.startFailed(fmt.Errorf("core cannot be started: %v", err))
	}
}

// reload starts a new core from the binary on disk. If that is not possible now,
// it is done later.
func (m *monitor) reload() {
	switch {
	case m.phase != running:
	case m.next != nil || m.current == nil || m.current.state != serving:
		m.reloadPending = true
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

// reloadIfPending does a reload that was not possible before.
func (m *monitor) reloadIfPending() {
	if m.reloadPending && m.next == nil && m.current != nil && m.current.state == serving {
		m.reloadPending = false
		m.reload()
	}
}

// fileFD returns the descriptor of a file. File.Fd would make it blocking.
func fileFD(f *os.File) uintptr {
	var n uintptr
	if rc, err := f.SyscallConn(); err == nil {
		rc.Control(func(fd uintptr) { n = fd })
	}
	return n
}
