package e2e

import (
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// These functions use procstat(1) and ps(1).

// hasSandbox reports whether -sandbox on confines the core here.
const hasSandbox = true

// output runs a program of the base system.
func output(t *testing.T, argv ...string) string {
	t.Helper()
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%q: %v\n%s", argv, err, out)
	}
	return string(out)
}

func psField(pid int, field string) string {
	out, err := exec.Command("/bin/ps", "-o", field+"=", "-p", strconv.Itoa(pid)).Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}

// isGone reports whether a process has exited; it may be a zombie.
func isGone(pid int) bool {
	state := psField(pid, "state")
	return state == "" || state[0] == 'Z'
}

func isStopped(pid int) bool { return strings.HasPrefix(psField(pid, "state"), "T") }

// combined are abbreviations for several rights, or for rights that have
// another abbreviation.
var combined = []string{"prd", "pwr", "mmr", "mmw", "mmx", "mrw", "mrx", "mwx", "mma", "re", "sd", "scl", "ssr"}

// descriptors returns the open descriptors of a process, as NUMBER TYPE NAME
// RIGHTS.
func descriptors(t *testing.T, pid int) (list []string) {
	t.Helper()
	out := output(t, "/usr/bin/procstat", "-fC", strconv.Itoa(pid))
	for line := range strings.Lines(out) {
		// PID COMM FD T FLAGS CAPABILITIES PRO NAME
		f := strings.Fields(line)
		if len(f) < 7 {
			continue
		}
		if _, err := strconv.Atoi(f[2]); err != nil {
			continue // the header, text, cwd, root
		}
		rights := slices.DeleteFunc(strings.Split(f[5], ","), func(r string) bool { return r == "-" || slices.Contains(combined, r) })
		slices.Sort(rights)
		list = append(list, strings.Join([]string{f[2], f[3], f[len(f)-1], strings.Join(rights, ",")}, " "))
	}
	if list == nil {
		t.Fatalf("procstat says %q", out)
	}
	return list
}

// environment returns the initial environment of a process.
func environment(t *testing.T, pid int) string {
	t.Helper()
	// If it is empty procstat also prints "cannot allocate memory".
	out, err := exec.Command("/usr/bin/procstat", "-e", strconv.Itoa(pid)).CombinedOutput()
	t.Logf("procstat -e %d: %v\n%s", pid, err, out)
	for line := range strings.Lines(string(out)) {
		// PID COMM ENVIRONMENT
		if f := strings.Fields(line); len(f) >= 2 && f[0] == strconv.Itoa(pid) {
			return strings.TrimSuffix(strings.Join(f[2:], " "), "-")
		}
	}
	t.Fatalf("procstat says %q", out)
	return ""
}

// A Go program cannot find out here; see TestCommandSignals.
func ignoredSignals() (ignored []int, mask string) { return nil, "" }

// Confined reports whether procstat shows a process in capability mode.
func Confined(t *testing.T, pid int) bool {
	t.Helper()
	out := output(t, "/usr/bin/procstat", "-s", strconv.Itoa(pid))
	t.Logf("procstat -s %d:\n%s", pid, out)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if len(lines) != 2 {
		t.Fatalf("procstat says %q", out)
	}
	i := slices.Index(strings.Fields(lines[0]), "FLAGS")
	f := strings.Fields(lines[1])
	if i < 0 || i >= len(f) {
		t.Fatalf("procstat says %q", out)
	}
	return f[i] == "C"
}

// spyMethods are ways to look into another process of the same user.
var spyMethods = []spyMethod{
	{"ptrace", func(pid int) error {
		if err := unix.PtraceAttach(pid); err != nil {
			return err
		}
		unix.Wait4(pid, nil, 0, nil)
		return unix.PtraceDetach(pid)
	}},
	{"kern.proc.env", sysctlSpying("kern.proc.env")},
	{"kern.proc.filedesc", sysctlSpying("kern.proc.filedesc")},
	{"kern.proc.vmmap", sysctlSpying("kern.proc.vmmap")},
}

func sysctlSpying(name string) func(pid int) error {
	return func(pid int) error {
		_, err := unix.SysctlRaw(name, pid)
		return err
	}
}
