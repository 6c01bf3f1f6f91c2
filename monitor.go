package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-multierror"
	"golang.org/x/sys/unix"

	"github.com/onewake/onewake/journal"
	"github.com/onewake/onewake/sandbox"
	"github.com/onewake/onewake/sock"
	"github.com/onewake/onewake/spawn"
)

const (
	// readyTime is how long a core may take until it can serve.
	readyTime = 5 * time.Second
	// spares is how many threads the monitor keeps besides those at work.
	spares = 8
	// maxFailures is how many cores in a row may end before they are ready.
	maxFailures = 3
	// Back-off before another core is started after one that lived for less
	// than settleTime, or that broke the protocol.
	minBackoff = 100 * time.Millisecond
	maxBackoff = 30 * time.Second
	settleTime = 100 * time.Millisecond
	// forgiveTime is how long a core must have lived to clear a breach.
	forgiveTime = time.Minute
	// answerTime is how long the status line waits for a core's counters.
	answerTime = 500 * time.Millisecond
	// beatTime is how often a core is asked for its counters. One that leaves
	// the same question open for maxMissed beats is stuck, and killed.
	beatTime  = 10 * time.Second
	maxMissed = 3
	// retiredTime is how long a retired core may go on after the last moment
	// at which a command that ran when it was retired could end.
	retiredTime = 2 * time.Minute
)

// monitor is the process that owns the socket and starts the command. All of
// it runs on the goroutine of its loop.
type monitor struct {
	o         *options
	exe       string
	journal   *journal.Journal
	log       *slog.Logger
	loop      *spawn.Loop
	sup       *spawn.Supervisor
	listeners []*sock.Listener
	began     time.Time

	cores    map[int]*coreProcess // by pid, until reaped
	serving  *coreProcess         // nil between two cores
	standby  *coreProcess         // one that is to replace serving
	again    bool                 // another reload has been asked for meanwhile
	failures int
	backoff  time.Duration
	restarts int
	past     spawn.Stats // counters of cores that are gone
	started  bool        // the start record has been written

	answer *spawn.Timer // answerTime; nil while no status line is due
	about  *coreProcess // that it is about

	stopping bool
	closed   bool     // the listeners are
	told     []string // warnings of closing them
	killing  bool     // nothing is waited for any more
	fatal    error
	done     bool
}

// coreProcess is one core, as the monitor sees it.
type coreProcess struct {
	pid, handle int
	peer        *spawn.Peer
	born        time.Time
	ready       bool
	readySince  time.Time
	retired     bool
	timer       *spawn.Timer // readyTime
	breach      bool
	stats       spawn.Stats
	asked       bool         // for stats
	lastWord    bool         // has told them unasked
	missed      int          // beats since then
	beat        *spawn.Timer // of the next question; when retired, of the end
}

// runMonitor is the life of the monitor. It returns nil after a stop that was
// asked for.
func runMonitor(o *options) error {
	// The loop's goroutine keeps this thread: the death of the thread that
	// forked is what Linux tells children as the death of their parent.
	runtime.LockOSThread()
	spareThreads(spares)
	// Small and flat: where fork(2) copies page tables its cost grows with us.
	debug.SetGCPercent(10)
	m := &monitor{o: o, cores: make(map[int]*coreProcess), began: time.Now()}
	if err := m.prepare(); err != nil {
		return err
	}
	defer m.journal.Close(time.Second)
	// What comes before the loop runs waits for it: were a signal to end us
	// between bind and here, the socket file would stay behind.
	m.signals()
	if err := m.listen(); err != nil {
		return err
	}
	defer m.closeListeners()
	m.notes()
	if err := m.startCore(); err != nil {
		return err
	}
	if err := m.loop.Run(); err != nil {
		return err
	}
	return m.fatal
}

// spareThreads has Go's runtime make n threads, which wait until they are
// needed. It would make them when it needs them, and ends the process if it
// cannot: a service that has used up its processes would take the monitor along.
func spareThreads(n int) {
	var held, done sync.WaitGroup
	release := make(chan struct{})
	held.Add(n)
	for range n {
		done.Go(func() {
			runtime.LockOSThread() // no two on the same
			defer runtime.UnlockOSThread()
			held.Done()
			<-release
		})
	}
	held.Wait()
	close(release)
	done.Wait()
}

// prepare sets this process up.
func (m *monitor) prepare() (err error) {
	if m.exe, err = os.Executable(); err != nil {
		return err
	}
	closeOnExec()
	if err := spawn.DefaultSignals(); err != nil {
		return err
	}
	m.journal = journal.Open(2, m.o.format)
	m.log = slog.New(m.journal)
	for _, err := range []error{sandbox.Untraceable(), sandbox.AcquireReaper()} {
		if err != nil && !errors.Is(err, sandbox.ErrUnsupported) {
			m.log.Warn("less protection than there could be", "error", err)
		}
	}
	if m.loop, err = spawn.NewLoop(); err != nil {
		return err
	}
	m.sup, err = spawn.NewSupervisor(m.loop, m.log, spawn.Command{
		Path: m.o.path, Args: m.o.command, Dir: m.o.dir, Env: m.o.env, SpoolDir: m.o.spoolDir,
	}, m.o.maxProcs, m.o.killAfter, func(pid int) bool { return m.cores[pid] != nil })
	return err
}

// closeOnExec sees to it that no descriptor that we inherited reaches a core or
// a command.
func closeOnExec() {
	last := 1024
	var r unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &r) == nil {
		last = int(min(uint64(r.Cur), 1<<14))
	}
	if markCloseOnExec(3) {
		return
	}
	for fd := 3; fd < last; fd++ {
		unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC)
	}
}

// listen opens all listeners or none.
func (m *monitor) listen() error {
	var errs *multierror.Error
	for _, a := range m.o.listen {
		l, err := sock.Listen(a, m.o.perms)
		if err != nil {
			errs = multierror.Append(errs, err)
			continue
		}
		m.listeners = append(m.listeners, l)
	}
	if errs.ErrorOrNil() != nil {
		m.closeListeners()
	}
	return errs.ErrorOrNil()
}

func (m *monitor) closeListeners() {
	if m.closed {
		return
	}
	m.closed = true
	for _, l := range m.listeners {
		m.warn(l.Close())
	}
}

// warn tells of what could not be cleaned up, each thing once.
func (m *monitor) warn(err error) {
	for _, e := range flatten(err) {
		if text := e.Error(); !slices.Contains(m.told, text) {
			m.told = append(m.told, text)
			m.log.Warn(text)
		}
	}
}

// config is what a core is told.
func (m *monitor) config() coreConfig {
	c := coreConfig{
		Command: len(m.o.command) > 0, CGI: m.o.cgi, ContentType: m.o.mime, ScriptName: m.o.script,
		Software: "onewake/" + versionString(), Forwarded: m.o.forwarded, Timeout: m.o.timeout,
		MaxProcs: m.o.maxProcs, MaxQueue: m.o.maxQueue, MaxBody: m.o.maxBody, MaxConns: m.o.maxConns,
		Allow: m.o.allow, Sandbox: m.o.sandbox, Format: m.o.format, AccessLog: m.o.accessLog,
	}
	for _, l := range m.listeners {
		c.Listeners = append(c.Listeners, listenerConfig{
			Name: listenName(l), Host: serverName(l.Host()), Port: l.Port(), Unix: l.Unix(),
		})
		if l.LockFile() != nil {
			c.Locks++
		}
	}
	if !c.Command {
		c.Page = m.pageSetup()
	}
	return c
}

// serverName writes a host as SERVER_NAME has it: an IPv6 address without its
// zone and in brackets (RFC 3875 § 4.1.14).
func serverName(host string) string {
	if !strings.Contains(host, ":") {
		return host
	}
	host, _, _ = strings.Cut(host, "%")
	return "[" + host + "]"
}

// startCore starts a core: with an empty environment, and no descriptor but
// those it needs.
func (m *monitor) startCore() error {
	config, err := json.Marshal(m.config())
	if err != nil {
		return err
	}
	pair, err := controlPair()
	if err != nil {
		return os.NewSyscallError("socketpair", err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		unix.Close(pair[0])
		unix.Close(pair[1])
		return err
	}
	defer null.Close()
	files := []uintptr{null.Fd(), null.Fd(), 2, uintptr(pair[1])}
	for _, l := range m.listeners {
		files = append(files, fileFD(l.File()))
	}
	for _, l := range m.listeners {
		if f := l.LockFile(); f != nil {
			files = append(files, fileFD(f))
		}
	}
	pid, handle, err := spawn.Start(m.exe, []string{coreName}, "/", []string{}, files...)
	unix.Close(pair[1])
	if err != nil {
		unix.Close(pair[0])
		return &os.PathError{Op: "start core", Path: m.exe, Err: err}
	}
	c := &coreProcess{pid: pid, handle: handle, born: time.Now()}
	m.cores[pid] = c
	if c.peer, err = m.sup.NewPeer(pair[0]); err == nil {
		err = m.loop.WatchProcess(pid, handle, func() { m.coreExited(c) })
	}
	if err != nil {
		if c.peer != nil {
			c.peer.Close()
		} else {
			unix.Close(pair[0])
		}
		unix.Kill(pid, unix.SIGKILL)
		m.reap(c)
		return err
	}
	c.peer.OnReady = func(confined string, err error) { m.coreReady(c, confined, err) }
	c.peer.OnBroken = func(err error) { m.coreBroken(c, err) }
	c.peer.OnClosed = func() { m.coreClosed(c) }
	c.peer.OnStats = func(s spawn.Stats) { m.coreStats(c, s) }
	c.timer = m.loop.After(readyTime, func() {
		m.log.Error("core is not ready in time", "core", c.pid)
		m.kill(c)
	})
	if m.serving == nil {
		m.serving = c
	} else {
		m.standby = c
	}
	c.peer.Configure(config)
	return nil
}

// fileFD is the number of a file's descriptor. File.Fd would make it blocking.
func fileFD(f *os.File) uintptr {
	var n uintptr
	if rc, err := f.SyscallConn(); err == nil {
		rc.Control(func(fd uintptr) { n = fd })
	}
	return n
}

// coreReady puts a core to work, in the place of an older one if there is one.
func (m *monitor) coreReady(c *coreProcess, confined string, err error) {
	c.timer.Stop()
	switch {
	case c.ready:
		m.coreBroken(c, fmt.Errorf("%w: ready twice", spawn.ErrBreach))
	case err != nil:
		m.log.Error("core speaks another control version", "core", c.pid, "error", err)
		m.kill(c)
	case m.stopping:
		c.peer.Stop()
	default:
		c.ready, c.readySince = true, time.Now()
		m.failures = 0
		m.heartbeat(c)
		if c == m.standby {
			old := m.serving
			m.serving, m.standby = c, nil
			m.retire(old)
			m.log.Info("core replaced", "core", c.pid, "old", old.pid, "sandbox", confined)
		}
		if !m.started {
			m.started = true
			m.startRecord(confined)
		}
		m.reloadAgain()
	}
}

// retire has a core finish what it has begun, and tell its counters then. One
// that never comes to an end must not keep its copy of the listeners for good.
func (m *monitor) retire(c *coreProcess) {
	c.retired = true
	if !c.asked {
		m.ask(c) // it may crash before
	}
	c.peer.Retire()
	c.beat.Stop()
	c.beat = m.loop.After(m.o.timeout+m.o.killAfter+retiredTime, func() {
		m.log.Error("retired core does not end", "core", c.pid)
		m.kill(c)
	})
}

// heartbeat asks a core for its counters, again and again.
func (m *monitor) heartbeat(c *coreProcess) {
	c.beat = m.loop.After(beatTime, func() {
		if c.asked {
			if c.missed++; c.missed >= maxMissed {
				m.log.Error("core is stuck", "core", c.pid)
				m.kill(c)
				return
			}
		} else {
			m.ask(c)
		}
		m.heartbeat(c)
	})
}

func (m *monitor) ask(c *coreProcess) {
	c.asked, c.missed = true, 0
	c.peer.WantStats()
}

// coreBroken is told of a control socket that has ended or been misused. What
// the core has started is being ended already.
func (m *monitor) coreBroken(c *coreProcess, err error) {
	if errors.Is(err, spawn.ErrBreach) {
		c.breach = true
		m.log.Error("breach by core", "core", c.pid, "error", err)
	} else if !m.stopping && !c.retired {
		m.log.Error("core is gone or stuck", "core", c.pid, "error", err)
	}
	c.peer.Close()
	// A core without a control socket ends by itself; it is not relied upon,
	// nor waited for where it is known to be hostile or wedged. One that has
	// finished its work is given the time to say so.
	if c.breach || errors.Is(err, spawn.ErrDeaf) || !(c.retired || m.stopping) {
		unix.Kill(c.pid, unix.SIGKILL)
	}
}

// reap waits for a core that is dying or dead.
func (m *monitor) reap(c *coreProcess) (st unix.WaitStatus) {
	for {
		if _, err := unix.Wait4(c.pid, &st, 0, nil); err != unix.EINTR {
			break
		}
	}
	delete(m.cores, c.pid)
	if c.handle >= 0 {
		unix.Close(c.handle)
	}
	return st
}

// coreExited reaps a core and decides what comes next.
func (m *monitor) coreExited(c *coreProcess) {
	if c.retired {
		c.peer.Drain()
	}
	st := m.reap(c)
	c.timer.Stop()
	c.beat.Stop()
	c.peer.Close()
	m.past.AddTotals(c.stats)
	if m.answer != nil {
		if c == m.about && c.asked {
			m.statusLine("core died")
		} else {
			m.answered()
		}
	}
	expected := (c.retired || m.stopping) && st.Exited() && st.ExitStatus() == 0 || m.killing ||
		m.stopping && !c.ready // stop has killed it
	if !expected {
		m.log.Error("core died", "core", c.pid, "status", spawn.Describe(spawn.Status(st)), "ready", c.ready)
	}
	switch {
	case m.stopping:
		if c == m.serving {
			m.serving = nil
			m.closeListeners()
		}
		m.endIfDone()
	case c == m.standby:
		m.standby = nil
		m.log.Error("reload failed, the old core stays", "core", m.serving.pid)
		m.reloadAgain()
	case c == m.serving:
		m.serving = nil
		m.coreLost(c, st)
	case c.breach:
		// Retired: those that came after it have the same listeners.
		if s := m.serving; s != nil {
			m.serving = nil
			if s.ready {
				m.retire(s)
			} else {
				s.retired = true
				m.kill(s)
			}
		}
		m.coreLost(c, st)
	}
}

// kill ends a core. Nothing that it still says counts.
func (m *monitor) kill(c *coreProcess) {
	c.peer.Close()
	unix.Kill(c.pid, unix.SIGKILL)
}

// coreLost starts another core, at once or after a while.
func (m *monitor) coreLost(c *coreProcess, st unix.WaitStatus) {
	if c.breach {
		m.renewListeners()
		if m.stopping {
			return
		}
	}
	if s := m.standby; s != nil {
		m.standby = nil
		if !c.breach {
			// It is about to be ready; the clients can wait for it.
			m.serving = s
			return
		}
		s.retired = true // it has the old listeners
		m.kill(s)
	}
	m.restarts++
	if !c.ready {
		m.failures++
		if m.failures >= maxFailures {
			m.end(fmt.Errorf("core ended before it was ready, %d times in a row, the last time with %s",
				maxFailures, spawn.Describe(spawn.Status(st))))
			return
		}
	}
	lived := time.Since(c.readySince)
	switch {
	case c.ready && (lived >= forgiveTime || !c.breach && lived >= settleTime):
		m.backoff = 0
	default:
		m.backoff = min(max(2*m.backoff, minBackoff), maxBackoff)
	}
	m.loop.After(m.backoff, func() {
		if m.stopping || m.serving != nil {
			return
		}
		if err := m.startCore(); err != nil {
			m.log.Error("cannot start a core", "error", err)
			if !spawn.IsTemporary(err) {
				m.failures++
			}
			if m.failures >= maxFailures {
				// Whatever it was, the service could be started before.
				m.end(fmt.Errorf("core cannot be started, %d times in a row: %v", maxFailures, err))
				return
			}
			m.coreLost(&coreProcess{ready: true, readySince: time.Now()}, 0)
		}
	})
}

// renewListeners makes the Unix sockets anew: a hostile core may have handed
// copies of the old ones to a client.
func (m *monitor) renewListeners() {
	for _, l := range m.listeners {
		if !l.Unix() || l.LockFile() == nil {
			continue
		}
		if err := l.Renew(); err != nil {
			m.log.Error("cannot renew the socket", "listen", l.Address().String(), "error", err)
			m.end(err)
			return
		}
	}
}

// signals connects signals to the loop.
func (m *monitor) signals() {
	ch := make(chan os.Signal, 16)
	signal.Notify(ch, append(statusSignals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)...)
	go func() {
		for s := range ch {
			m.loop.Post(func() { m.signal(s) })
		}
	}()
}

func (m *monitor) signal(s os.Signal) {
	switch s {
	case syscall.SIGTERM, syscall.SIGINT:
		if m.stopping {
			m.log.Info("stop at once", "signal", s.String())
			m.endNow()
			return
		}
		m.log.Info("stop", "signal", s.String(), "drain", m.o.drain)
		m.stop()
	case syscall.SIGHUP:
		m.reload()
	default:
		m.status()
	}
}

// reload starts a core from the binary that is on disk now.
func (m *monitor) reload() {
	switch {
	case m.stopping:
	case m.standby != nil || m.serving == nil || !m.serving.ready:
		m.again = true
	default:
		m.log.Info("reload", "core", m.serving.pid)
		if err := m.startCore(); err != nil {
			m.log.Error("reload failed, the old core stays", "core", m.serving.pid, "error", err)
		}
	}
}

func (m *monitor) reloadAgain() {
	if m.again && !m.stopping && m.standby == nil && m.serving != nil && m.serving.ready {
		m.again = false
		m.reload()
	}
}
