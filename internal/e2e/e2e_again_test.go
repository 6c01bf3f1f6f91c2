//go:build freebsd || linux

package e2e

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The tests that run again as an ordinary user, and those that run with the core
// under watch.
const (
	ordinaryParts = "^(TestStatus|TestHTTP|TestMixed|TestLife|TestCommand|TestUntraceable|TestWho|TestCheck|TestExit|TestFlag[^s]|TestLog|TestPage|TestNginx)"
	watchedParts  = "^(TestStatusRaw|TestStatusCGI|TestStatusTimeout|TestStatusClientGone|TestStatusQueueFull|TestStatusMalformed|TestStatusExpect|TestHTTP|TestMixed|TestLifeReload$|TestLifeDrain|TestLifeListeners|TestLifeLeftovers|TestLifeSignals|TestCommandSurroundings|TestFlagLimits|TestFlagForwarded|TestLog|TestPage|TestNginxGit|TestWhoAllow)"
)

// rerun runs a part of the tests in another process of this test binary.
func rerun(t *testing.T, cred *syscall.Credential, parts string, env ...string) {
	t.Helper()
	path, err := self()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "-test.run", parts, "-test.v", "-test.parallel", "6", "-test.timeout", "120s")
	cmd.Dir = "/"
	cmd.Env = append(append(os.Environ(), envBinary+"="+underTest, envTools+"="+tools), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
	began := time.Now()
	out, err := cmd.CombinedOutput()
	passed, skipped := 0, []string(nil)
	lines := strings.Split(string(out), "\n")
	for _, line := range lines {
		switch f := strings.Fields(line); {
		case strings.HasPrefix(line, "--- PASS"):
			passed++
		case strings.HasPrefix(strings.TrimSpace(line), "--- SKIP"):
			skipped = append(skipped, f[2])
		}
	}
	t.Logf("%d tests passed in %v, skipped: %v", passed, time.Since(began).Round(time.Second), skipped)
	if err != nil || passed == 0 {
		t.Errorf("%v\n%s", err, failures(lines))
	}
}

// failures leaves what passed out of the output of tests.
func failures(lines []string) string {
	keep := slices.DeleteFunc(lines, func(l string) bool {
		l = strings.TrimSpace(l)
		return strings.HasPrefix(l, "=== ") || strings.HasPrefix(l, "--- PASS") || strings.HasPrefix(l, "--- SKIP")
	})
	text := strings.Join(keep, "\n")
	if len(text) > 20000 {
		text = text[:20000] + "\n[…]"
	}
	return text
}

// The main parts again as an ordinary user, which is how onewake is meant to
// run.
func TestAsOrdinaryUser(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("everything else is run by an ordinary user already")
	}
	parts := ordinaryParts
	if raceEnabled {
		parts = "^(TestStatus|TestHTTP|TestLifeKill|TestLifeDrain|TestCommand|TestWho|TestCheck|TestPage)" // time is short
	}
	rerun(t, nobody(t), parts, "HOME=/nonexistent", "USER=nobody")
}
