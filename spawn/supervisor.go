package spawn

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/onewake/onewake/nbio"
)

// Command is the one command line that a [Supervisor] starts.
type Command struct {
	Path     string   // absolute
	Args     []string // argv, the command's name first
	Dir      string   // working directory
	Env      []string // NAME=VALUE, before what each request adds
	SpoolDir string   // where unlinked files for large bodies are made
}

// Supervisor starts the command for any number of cores and sees to its end.
// It belongs to its loop's goroutine.
type Supervisor struct {
	cmd       Command
	loop      *Loop
	log       *slog.Logger
	max       int
	killAfter time.Duration

	// The constants of the same names, unless a test sets others.
	deafTime, sweepAfter, slowSweep time.Duration

	null    int
	running int // leaders that have not been reaped
	pending []pending
	groups  map[int]*group // by pid of the leader, until it is reaped
	foreign func(pid int) bool
	inherit map[int]bool // children that we had before this program was executed
	orphans orphans
	ending  bool // nothing is started any more
	env     []string
	scratch []byte
	spools  uint64
}

// pending is a start that waits until others end: when one core takes over
// from another, each keeps to the limit but both together may not.
type pending struct {
	peer  *Peer
	id    uint64
	flags byte
	vars  []byte
}

// NewSupervisor makes a supervisor that runs at most max commands at once and
// waits killAfter from SIGTERM to SIGKILL. foreign tells which of our other
// children are none of its business.
func NewSupervisor(l *Loop, log *slog.Logger, cmd Command, max int, killAfter time.Duration, foreign func(pid int) bool) (*Supervisor, error) {
	null, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: os.DevNull, Err: err}
	}
	s := &Supervisor{
		cmd: cmd, loop: l, log: log, max: max, killAfter: killAfter,
		deafTime: deafTime, sweepAfter: sweepAfter, slowSweep: slowSweep,
		null: null, groups: make(map[int]*group), foreign: foreign,
		inherit: make(map[int]bool),
	}
	for _, pid := range children() {
		s.inherit[pid] = true
	}
	return s, nil
}

// Running tells how many commands are running.
func (s *Supervisor) Running() int { return s.running }

// Idle tells whether nothing that was started is left, orphans included.
func (s *Supervisor) Idle() bool { return s.running == 0 && len(s.groups) == 0 && s.orphans.none() }

// EndAll ends all commands: SIGTERM now, SIGKILL after killAfter. None is
// started from then on: who asks for one is told ECANCELED.
func (s *Supervisor) EndAll() {
	s.refuse()
	for _, g := range s.groups {
		g.end()
	}
	s.orphans.endAll(s)
}

// KillAll ends all commands at once.
func (s *Supervisor) KillAll() {
	s.refuse()
	for _, g := range s.groups {
		g.signal(unix.SIGKILL)
	}
	s.orphans.killAll(s)
}

func (s *Supervisor) refuse() {
	s.ending = true
	for len(s.pending) > 0 {
		s.cancel(s.pending[0].peer, s.pending[0].id)
	}
}

func (s *Supervisor) request(p *Peer, id uint64, flags byte, vars []byte) error {
	env, err := checkVars(append(s.env[:0], s.cmd.Env...), vars)
	s.env = env[:0]
	if err != nil {
		return err
	}
	if s.ending {
		p.sendErrno(msgFailed, id, unix.ECANCELED)
		return nil
	}
	p.starts++
	if s.running >= s.max {
		s.pending = append(s.pending, pending{p, id, flags, append([]byte(nil), vars...)})
		return nil
	}
	s.start(p, id, flags, env)
	return nil
}

// start starts the command and tells the core. Whatever fails leaves nothing
// behind.
func (s *Supervisor) start(p *Peer, id uint64, flags byte, env []string) {
	g, ends, err := s.fork(flags&flagStdin != 0, env)
	if err != nil {
		p.starts--
		p.sendErrno(msgFailed, id, err)
		return
	}
	g.peer, g.id = p, id
	p.groups[id] = g
	b := appendFrame(s.scratch[:0], msgStarted, id)
	s.scratch = b
	if flags&flagLazy != 0 {
		p.sendLazy(b, ends...)
	} else {
		p.send(b, ends...)
	}
}

// fork makes the pipes and the process. ends are the core's: stdout, stderr
// and, if wanted, stdin.
func (s *Supervisor) fork(stdin bool, env []string) (*group, []int, error) {
	var in, out, errs [2]int
	in[0] = s.null
	if err := pipe(&out); err != nil {
		return nil, nil, err
	}
	if err := pipe(&errs); err != nil {
		closeAll(out[:])
		return nil, nil, err
	}
	if stdin {
		if err := pipe(&in); err != nil {
			closeAll(out[:])
			closeAll(errs[:])
			return nil, nil, err
		}
	}
	ends := make([]int, 0, 3)
	ends = append(ends, out[0], errs[0])
	if stdin {
		ends = append(ends, in[1])
	}
	for _, fd := range ends {
		// Only the core's ends: the command's are another open file.
		unix.FcntlInt(uintptr(fd), unix.F_SETFL, unix.O_NONBLOCK)
	}
	err := limitEnds(ends)
	var pid, handle int
	if err == nil {
		pid, handle, err = Start(s.cmd.Path, s.cmd.Args, s.cmd.Dir, env, uintptr(in[0]), uintptr(out[1]), uintptr(errs[1]))
	}
	closeAll([]int{out[1], errs[1]})
	if stdin {
		nbio.Close(in[0])
	}
	if err != nil {
		closeAll(ends)
		return nil, nil, err
	}
	s.orphans.started(s)
	g := &group{sup: s, pid: pid, handle: handle, number: s.orphans.latest}
	s.groups[pid] = g
	s.running++
	if err := s.loop.WatchProcess(pid, handle, g.exited); err != nil {
		// Nothing but want of memory or descriptors does this, and a
		// process whose end nobody sees must not run.
		g.signal(unix.SIGKILL)
		s.loop.After(0, g.exited)
	}
	return g, ends, nil
}

// finished makes room for the next one.
func (s *Supervisor) finished() {
	s.running--
	for s.running < s.max && len(s.pending) > 0 {
		n := s.pending[0]
		s.pending = s.pending[1:]
		env, _ := checkVars(append(s.env[:0], s.cmd.Env...), n.vars)
		s.env = env[:0]
		s.start(n.peer, n.id, n.flags, env)
	}
}

// cancel drops a start that is pending.
func (s *Supervisor) cancel(p *Peer, id uint64) {
	for i, n := range s.pending {
		if n.peer == p && n.id == id {
			s.pending = append(s.pending[:i], s.pending[i+1:]...)
			p.starts--
			p.sendUint32(msgFailed, id, uint32(unix.ECANCELED))
			return
		}
	}
}

func (s *Supervisor) dropPending(p *Peer) {
	kept := s.pending[:0]
	for _, n := range s.pending {
		if n.peer != p {
			kept = append(kept, n)
		}
	}
	s.pending = kept
}

// openSpool makes a file for a body, with no right but to write and read it.
func (s *Supervisor) openSpool() (int, error) {
	fd, err := s.makeSpool()
	if err != nil {
		s.log.Error("cannot make a spool file", "dir", s.cmd.SpoolDir, "error", err)
		return -1, err
	}
	if err := limitSpool(fd); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// makeSpool makes a file that has no name by the time anyone could use it.
func (s *Supervisor) makeSpool() (int, error) {
	if fd, err := openUnnamed(s.cmd.SpoolDir); err == nil {
		return fd, nil
	}
	for range 100 {
		s.spools++
		name := filepath.Join(s.cmd.SpoolDir, "onewake-"+strconv.Itoa(os.Getpid())+"-"+
			strconv.FormatUint(s.spools, 10)+"-"+strconv.FormatInt(time.Now().UnixNano(), 36))
		fd, err := unix.Open(name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		if err == unix.EEXIST {
			continue
		}
		if err != nil {
			return -1, err
		}
		if err := unix.Unlink(name); err != nil {
			unix.Close(fd)
			return -1, err
		}
		return fd, nil
	}
	return -1, unix.EEXIST
}

// Start starts a program in a process group of its own, with files as its
// descriptors 0, 1, 2 and so on and nothing but env as its environment. Where
// the system can, the child is killed when the calling thread ends. handle is
// for [Loop.WatchProcess]; if it is not negative it is to be closed when the
// process has been reaped.
func Start(path string, args []string, dir string, env []string, files ...uintptr) (pid, handle int, err error) {
	return start(path, args, dir, env, files)
}

// A group is the process group of one request.
type group struct {
	sup    *Supervisor
	peer   *Peer // nil once the core is gone
	id     uint64
	pid    int    // of the leader, and the group's number
	number uint64 // counts all starts
	handle int    // pidfd where the system has them, else -1
	timer  *Timer
	ended  bool
	killAt time.Time // if it has been asked to end
}

// signal reaches the whole group, and the leader even if it has left the
// group. To be called only while the leader has not been reaped: until then
// its number is nobody else's.
func (g *group) signal(sig unix.Signal) {
	unix.Kill(-g.pid, sig)
	// Not twice: programs take a second SIGTERM for a sign of impatience.
	if pgid, err := unix.Getpgid(g.pid); err != nil || pgid != g.pid {
		unix.Kill(g.pid, sig)
	}
}

// end asks the group to end, and makes it after killAfter.
func (g *group) end() {
	if g.ended {
		return
	}
	g.ended = true
	g.signal(unix.SIGTERM)
	g.signal(unix.SIGCONT) // a stopped process sees SIGTERM only then
	g.killAt = time.Now().Add(g.sup.killAfter)
	g.timer = g.sup.loop.After(g.sup.killAfter, func() { g.signal(unix.SIGKILL) })
}

// exited runs when the leader is a zombie.
func (g *group) exited() {
	s := g.sup
	// What the leader leaves behind in its group ends with the request. The
	// signal goes out while the zombie still keeps the number.
	unix.Kill(-g.pid, leftoverSignal)
	var st unix.WaitStatus
	for {
		pid, err := unix.Wait4(g.pid, &st, waitExited, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			st = unix.WaitStatus(unix.SIGKILL) // never taken for a success
		}
		if err == nil && pid == 0 {
			// Not a zombie yet: killed without an event to wait for.
			s.loop.After(time.Millisecond, g.exited)
			return
		}
		break
	}
	g.timer.Stop()
	delete(s.groups, g.pid)
	if g.handle >= 0 {
		nbio.Close(g.handle)
	}
	if unix.Kill(-g.pid, 0) != unix.ESRCH {
		s.orphans.adopt(s, g)
	}
	s.orphans.ended(s)
	if p := g.peer; p != nil {
		delete(p.groups, g.id)
		p.starts--
		p.sendUint32(msgExited, g.id, uint32(st))
	}
	s.finished()
}

// Describe says in a word or two how a command ended: "exit 3", "signal 9".
func Describe(st Status) string {
	if st.Signaled() {
		return fmt.Sprintf("signal %d", int(st.Signal()))
	}
	return fmt.Sprintf("exit %d", st.ExitStatus())
}
