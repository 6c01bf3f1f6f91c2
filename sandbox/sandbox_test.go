package sandbox

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
)

// roles are run in child processes, because their effects cannot be undone.
var roles = map[string]func() error{
	"untraceable": childUntraceable,
	"reaper":      childReaper,
	"enter":       Enter,
	"orphan":      childOrphan,
}

// Roles is for the example, which is in another package.
var Roles = roles

func TestMain(m *testing.M) {
	role := os.Getenv("SANDBOX_TEST_ROLE")
	if role == "" {
		os.Exit(m.Run())
	}
	if err := roles[role](); err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// child runs a role and returns its output.
func child(t *testing.T, role string) (string, error) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	// A process in the sandbox cannot remove its directories.
	dir, err := os.MkdirTemp("", "ow")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	cmd.Env = []string{"SANDBOX_TEST_ROLE=" + role, "TMPDIR=" + dir, "GORACE=atexit_sleep_ms=0"}
	out, err := cmd.CombinedOutput()
	t.Logf("%s: %v\n%s", role, err, out)
	return string(out), err
}

func TestUnsupported(t *testing.T) {
	if !errors.Is(ErrUnsupported, errors.ErrUnsupported) {
		t.Error("ErrUnsupported is not errors.ErrUnsupported")
	}
	if s := ErrUnsupported.Error(); !strings.Contains(s, runtime.GOOS) {
		t.Errorf("%q does not name the system", s)
	}
	if runtime.GOOS == "freebsd" {
		return
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	for name, err := range map[string]error{
		"Limit":   Limit(w, 0),
		"LimitFD": LimitFD(int(w.Fd()), Read),
		"Enter":   Enter(),
	} {
		if !errors.Is(err, ErrUnsupported) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := w.Write([]byte("x")); err != nil {
		t.Errorf("the descriptor is limited: %v", err)
	}
}

func TestState(t *testing.T) {
	var zero State
	for s, want := range map[State]string{
		zero: "off", None: "none: not supported on " + runtime.GOOS, Confined: "capability mode",
	} {
		if got := s.String(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestRights(t *testing.T) {
	if Serve&^Converse != Accept {
		t.Error("Serve is not Accept and Converse")
	}
	f, err := os.Open(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	if err := Limit(f, 0); err == nil {
		t.Error("no error for a closed file")
	}
}

func TestUntraceable(t *testing.T) {
	if out, err := child(t, "untraceable"); err != nil && !strings.Contains(out, ErrUnsupported.Error()) {
		t.Error(err)
	}
}

func TestAcquireReaper(t *testing.T) {
	if out, err := child(t, "reaper"); err != nil && !strings.Contains(out, ErrUnsupported.Error()) {
		t.Error(err)
	}
}

// childReaper starts a child that leaves an orphan, and waits for the orphan. The
// orphan exits at the end of a pipe, after the child has been reaped.
func childReaper() error {
	for range 2 { // a second call is not an error
		if err := AcquireReaper(); err != nil {
			return err
		}
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	cmd := exec.Command("/bin/sh", "-c", `"$0" <&3 3<&- >/dev/null 2>&1 & echo $!`, self)
	cmd.Env = []string{"SANDBOX_TEST_ROLE=orphan"}
	cmd.ExtraFiles = []*os.File{r}
	out, err := cmd.Output()
	r.Close()
	w.Close()
	if err != nil {
		return err
	}
	var pid int
	if _, err := fmt.Sscan(string(out), &pid); err != nil {
		return err
	}
	p, err := os.FindProcess(pid)
	if err != nil {
		return err
	}
	st, err := p.Wait()
	if err != nil {
		return fmt.Errorf("wait for the orphan: %w", err)
	}
	fmt.Println("orphan reaped:", st)
	if st.ExitCode() != 7 {
		return errors.New("want exit status 7")
	}
	return nil
}

// childOrphan exits at the end of its input, with a recognizable status.
func childOrphan() error {
	io.Copy(io.Discard, os.Stdin)
	os.Exit(7)
	return nil
}
