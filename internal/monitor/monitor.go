// Package monitor is the process that owns the sockets and starts commands. It
// never reads from the network. It runs an event loop on one thread and needs no
// locks.
package monitor

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-multierror"

	"github.com/onewake/onewake/internal/cli"
	"github.com/onewake/onewake/internal/control"
	"github.com/onewake/onewake/internal/logqueue"
	"github.com/onewake/onewake/internal/process"
	"github.com/onewake/onewake/internal/scripts"
	"github.com/onewake/onewake/sandbox"
	"github.com/onewake/onewake/sock"
)

// spareThreads is how many threads are created in advance.
const spareThreads = 8

// phase is the phase of the service.
type phase uint8

const (
	running  phase = iota
	draining       // no new connections; requests may complete
	killing        // all processes are being killed
)

// monitor is the state of the process. It is used on the goroutine of the loop
// only.
type monitor struct {
	*cli.Config
	exe       string
	version   string
	queue     *logqueue.Queue
	log       *slog.Logger
	loop      *process.Loop
	sup       *process.Supervisor
	listeners []*sock.Listener
	startTime time.Time

	table     *scripts.Table // nil without -scripts
	tableTime time.Time      // when the table was read

	phase         phase
	cores         map[int]*core // by pid, until reaped
	current       *core         // serving or starting; nil between two cores
	next          *core         // starting, and will replace current
	reloadPending bool

	failures int // starts in a row that failed
	backoff  time.Duration
	restarts int
	totals   control.Stats // of cores that have exited
	started  bool          // the start record has been written

	idle  *process.Timer
	fatal error // why the service failed
}

// Run runs the service. It returns nil if the service was stopped by a signal. It
// logs errors before it returns them; they are errors of package sock or of the
// system, or [control.ErrProtocol].
func Run(cfg *cli.Config, version string) error {
	// Linux sends PDEATHSIG to a child when the thread that forked it exits.
	runtime.LockOSThread()
	createThreads(spareThreads)
	// The cost of fork(2) grows with the size of this process where it copies
	// page tables.
	debug.SetGCPercent(10)
	m := &monitor{Config: cfg, version: version, cores: make(map[int]*core), startTime: time.Now()}
	m.queue, m.log = logqueue.New(2, cfg.LogFormat == cli.JSON)
	defer m.queue.Close(time.Second)
	err := m.prepare()
	if err == nil {
		err = m.serve()
	}
	m.closeListeners()
	for _, e := range cli.Flatten(err) {
		m.log.Error("service failed", "error", cli.Explain(e))
	}
	if err == nil {
		m.log.Info("stopped", "uptime", time.Since(m.startTime).Round(time.Millisecond).String())
	}
	return err
}

func (m *monitor) serve() error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	m.signals(cancel)
	if err := m.listen(ctx); err != nil {
		if ctx.Err() != nil {
			return nil // stopped while waiting for a lock
		}
		return err
	}
	m.logWarnings()
	if err := m.startCore(); err != nil {
		return err
	}
	if err := m.loop.Run(); err != nil {
		return err
	}
	return m.fatal
}

// createThreads makes Go's runtime create n threads, which it keeps. Otherwise it
// creates threads when it needs them, and aborts the process if that fails, for
// example because the commands have used up the limit on processes.
func createThreads(n int) {
	var created, released sync.WaitGroup
	release := make(chan struct{})
	created.Add(n)
	for range n {
		released.Go(func() {
			runtime.LockOSThread() // each goroutine has its own thread
			defer runtime.UnlockOSThread()
			created.Done()
			<-release
		})
	}
	created.Wait()
	close(release)
	released.Wait()
}

// prepare sets up this process.
func (m *monitor) prepare() (err error) {
	if m.exe, err = os.Executable(); err != nil {
		return err
	}
	closeOnExec()
	if err := process.DefaultSignals(); err != nil {
		return err
	}
	if err := sandbox.Untraceable(); err != nil {
		m.log.Warn("cannot protect the monitor from tracing", "error", err)
	}
	return m.assemble()
}

// assemble creates the loop, the table of scripts and the supervisor.
func (m *monitor) assemble() (err error) {
	if m.loop, err = process.NewLoop(); err != nil {
		return err
	}
	if m.Scripts != "" {
		m.tableTime = time.Now()
		if m.table, err = scripts.Read(m.Scripts); err != nil {
			return err
		}
	}
	m.sup, err = process.NewSupervisor(m.loop, m.log, process.Options{Max: m.MaxProcs, Timeout: m.Timeout, KillAfter: m.KillAfter})
	return err
}

// listen opens all listeners or none.
func (m *monitor) listen(ctx context.Context) error {
	var errs *multierror.Error
	for _, a := range m.Listen {
		l, err := m.Sock().Listen(ctx, a)
		if err != nil {
			errs = multierror.Append(errs, err)
			continue
		}
		m.listeners = append(m.listeners, l)
	}
	return errs.ErrorOrNil()
}

// closeListeners closes the listeners. Further calls do nothing.
func (m *monitor) closeListeners() {
	for _, l := range m.listeners {
		m.close(l)
	}
}

func (m *monitor) close(l *sock.Listener) {
	for _, err := range cli.Flatten(l.Close()) {
		m.log.Warn(err.Error())
	}
}

// signals passes signals to the loop. A stop also calls cancel, which stops the
// wait for the lock of another onewake.
func (m *monitor) signals(cancel func()) {
	ch := make(chan os.Signal, 16)
	signal.Notify(ch, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGUSR1)
	if runtime.GOOS != "linux" { // 29 is SIGIO there
		signal.Notify(ch, syscall.Signal(29)) // SIGINFO
	}
	go func() {
		for s := range ch {
			if s == syscall.SIGTERM || s == syscall.SIGINT {
				cancel()
			}
			m.loop.Post(func() { m.signal(s) })
		}
	}()
}

func (m *monitor) signal(s os.Signal) {
	switch s {
	case syscall.SIGTERM, syscall.SIGINT:
		if m.phase != running {
			m.log.Info("stop at once", "signal", s.String())
			m.killAll()
			return
		}
		m.log.Info("stop", "signal", s.String(), "drain", m.Drain)
		m.stop()
	case syscall.SIGHUP:
		m.reload()
	default:
		m.status()
	}
}

// stop stops the service. It removes the socket files, so that no new client can
// connect. Then the cores answer the clients that have connected and close the
// listeners, which frees addresses and locks for another onewake.
func (m *monitor) stop() {
	m.phase = draining
	for _, l := range m.listeners {
		l.Unlink() // Close reports the error
		if l.LockFile() == nil {
			// Without a file, clients can connect until the last copy of
			// the listener is closed. That must be the core's, which
			// accepts them.
			m.close(l)
		}
	}
	for _, c := range m.cores {
		if c.state == starting {
			m.kill(c)
		} else if c.state != dead {
			c.state = retiring
			c.peer.Stop()
		}
	}
	if m.current == nil {
		m.closeListeners()
	}
	m.loop.After(m.Drain, func() {
		m.log.Warn("drain time is over, terminating commands", "running", m.sup.Running())
		m.terminate()
	})
	m.exitIfNoCores()
}

// exitIfNoCores terminates the remaining commands and exits when all cores have
// exited.
func (m *monitor) exitIfNoCores() {
	if len(m.cores) > 0 {
		return
	}
	m.closeListeners()
	m.terminate()
	m.exitWhenIdle()
}

// terminate terminates all commands, and kills everything after KillAfter.
func (m *monitor) terminate() {
	m.sup.TerminateAll()
	m.loop.After(m.KillAfter, m.killAll)
}

// fail makes Run return an error.
func (m *monitor) fail(err error) {
	if m.fatal == nil {
		m.fatal = err
	}
	m.killAll()
}

// killAll kills all processes and exits.
func (m *monitor) killAll() {
	m.phase = killing
	m.closeListeners()
	for _, c := range m.cores {
		m.kill(c)
	}
	m.sup.KillAll()
	m.exitWhenIdle()
}

// exitWhenIdle stops the loop when no process is left.
func (m *monitor) exitWhenIdle() {
	if m.sup.Idle() && len(m.cores) == 0 {
		m.loop.Stop()
		return
	}
	if m.phase == killing {
		m.sup.KillAll() // they may have forked
	}
	m.idle.Stop()
	m.idle = m.loop.After(5*time.Millisecond, m.exitWhenIdle)
}
