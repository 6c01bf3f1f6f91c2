//go:build amd64 || arm64

package process

import (
	"cmp"
	"os"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// spawn is what the child of rfork(2) needs. The child cannot allocate.
type spawn struct {
	path, dir  *byte
	argv, envv **byte
	files      []uintptr // none is less than its index
	nofile     *unix.Rlimit
	deathSig   int32
	ppid       uintptr
	errno      uintptr // set by the child, which shares our memory
}

// start is as on Linux. [syscall.ForkExec] would call fork(2), which copies our
// page tables and then makes us fault on each page that we write to.
func start(c *Command, files ...uintptr) (pid, handle int, err error) {
	argv, err1 := syscall.SlicePtrFromStrings(c.Args)
	envv, err2 := syscall.SlicePtrFromStrings(c.Env)
	paths, err3 := syscall.SlicePtrFromStrings([]string{c.Path, c.Dir})
	if err := cmp.Or(err1, err2, err3); err != nil {
		return 0, -1, err
	}
	p := &spawn{path: paths[0], dir: paths[1], argv: &argv[0], envv: &envv[0], nofile: nofile(), deathSig: int32(unix.SIGKILL), ppid: uintptr(os.Getpid())}
	for i, fd := range files {
		if fd < uintptr(i) { // dup2 to fd would close it first
			n, err := unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, len(files))
			if err != nil {
				return 0, -1, err
			}
			defer unix.Close(n)
			fd = uintptr(n)
		}
		p.files = append(p.files, fd)
	}
	syscall.ForkLock.Lock()
	r, errno := p.rfork()
	syscall.ForkLock.Unlock()
	if errno == 0 && p.errno != 0 {
		wait(int(r))
		errno = p.errno
	}
	if errno != 0 {
		return 0, -1, syscall.Errno(errno)
	}
	return int(r), -1, nil
}

// rfork starts the child. RFSPAWN (sys/unistd.h) makes rfork(2) a vfork(2) after
// which signals that we handle have their default action in the child. So none of
// our handlers can run in it, and no signals have to be blocked.
//
// The child runs on our stack while this thread waits for its execve(2) or
// _exit(2). Our other threads go on, so it must not allocate, grow the stack or be
// preempted: it calls nothing but rawSyscall. The child does not return from this
// function, and we return at once, because it may have changed the stack frame.
//
//go:noinline
//go:norace
//go:nosplit
//go:nocheckptr
func (p *spawn) rfork() (pid, errno uintptr) {
	const (
		rfSpawn   = 1 << 31
		pdeathsig = 11 // PROC_PDEATHSIG_CTL, sys/procctl.h
	)
	pid, errno = rawSyscall(unix.SYS_RFORK, rfSpawn, 0, 0, 0)
	if pid != 0 || errno != 0 {
		return pid, errno
	}
	_, errno = rawSyscall(unix.SYS_SETPGID, 0, 0, 0, 0)
	if errno == 0 {
		_, errno = rawSyscall(unix.SYS_CHDIR, uintptr(unsafe.Pointer(p.dir)), 0, 0, 0)
	}
	if errno == 0 {
		_, errno = rawSyscall(unix.SYS_PROCCTL, pPID, 0, pdeathsig, uintptr(unsafe.Pointer(&p.deathSig)))
	}
	if ppid, _ := rawSyscall(unix.SYS_GETPPID, 0, 0, 0, 0); ppid != p.ppid {
		errno = uintptr(unix.ESRCH) // our parent was killed before procctl(2)
	}
	for i, fd := range p.files {
		if errno == 0 && fd == uintptr(i) {
			_, errno = rawSyscall(unix.SYS_FCNTL, fd, unix.F_SETFD, 0, 0)
		} else if errno == 0 {
			_, errno = rawSyscall(unix.SYS_DUP2, fd, uintptr(i), 0, 0)
		}
	}
	if p.nofile != nil {
		rawSyscall(unix.SYS_SETRLIMIT, unix.RLIMIT_NOFILE, uintptr(unsafe.Pointer(p.nofile)), 0, 0)
	}
	if errno == 0 {
		_, errno = rawSyscall(unix.SYS_EXECVE, uintptr(unsafe.Pointer(p.path)), uintptr(unsafe.Pointer(p.argv)), uintptr(unsafe.Pointer(p.envv)), 0)
	}
	p.errno = errno
	for {
		rawSyscall(unix.SYS_EXIT, 253, 0, 0, 0)
	}
}

// rawSyscall makes a system call, which may be one that returns twice.
func rawSyscall(trap, a1, a2, a3, a4 uintptr) (r1, errno uintptr)

// nofile is the limit of open files that we were started with, or nil if it is
// still ours. Go raises our soft limit and does not export the original, but
// [syscall.Exec] restores it before it fails.
var nofile = sync.OnceValue(func() *unix.Rlimit {
	var raised, original unix.Rlimit
	unix.Getrlimit(unix.RLIMIT_NOFILE, &raised)
	syscall.Exec("", []string{""}, nil)
	unix.Getrlimit(unix.RLIMIT_NOFILE, &original)
	unix.Setrlimit(unix.RLIMIT_NOFILE, &raised)
	if original == raised {
		return nil
	}
	return &original
})
