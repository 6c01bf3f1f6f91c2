//go:build interop

package e2e

import (
	"crypto/sha1"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// collected are contents of files whose object names begin with 17: git
// estimates the number of all loose objects from these.
func collected(t *testing.T) func(n int) (texts []string) {
	t.Helper()
	next := 0
	return func(n int) (texts []string) {
		for ; len(texts) < n; next++ {
			text := fmt.Sprintln("file", next)
			if sum := sha1.Sum(fmt.Appendf(nil, "blob %d\x00%s", len(text), text)); sum[0] == 0x17 {
				texts = append(texts, text)
			}
		}
		return texts
	}
}

// TestInteropGitGC checks that git gc, which a push starts in the background
// and in its own session, runs to its end: after fifty pushes to a repository
// that needs gc each time, everything is packed.
func TestInteropGitGC(t *testing.T) {
	t.Parallel()
	git := need(t, "git", "apt-get install git")
	backend := need(t, "git-http-backend", "apt-get install git")
	m := newMachine(t)
	work, repo := m.here("/var/tmp/work"), m.here("/var/git/r.git")
	m.run(git, "init", "-q", "--bare", "-b", "main", repo)
	m.run(git, "init", "-q", "-b", "main", work)
	// If a push comes while git gc runs, git gc still finds too many loose
	// objects. It then does nothing for a day, except with gc.logExpiry.
	for key, value := range map[string]string{"gc.auto": "1", "gc.logExpiry": "now", "receive.autogc": "true", "http.receivepack": "true", "core.fsync": "none"} {
		m.run(git, "-C", repo, "config", key, value)
	}
	s := launch{cred: m.onewake, args: []string{"-socket-mode", "0666", "-cgi", "-timeout", "10m", "-script-name", "/git",
		"-env", "HOME=" + m.root, "-env", "GIT_PROJECT_ROOT=" + m.here("/var/git"), "-env", "GIT_HTTP_EXPORT_ALL=1", "--", backend}}.start(t)
	w := startWeb(t, "nginx", webConfig{site: "location /git/ {\nproxy_pass http://unix:" + s.path + ";\n}"})
	url := "http://" + strings.TrimPrefix(w.addr, "tcp:") + "/git/r.git"
	more := collected(t)
	push := func() {
		t.Helper()
		for i, text := range more(2) {
			m.write(fmt.Sprintf("/var/tmp/work/%d", i), text, 0o644)
		}
		// A push fails if git gc removes a directory of objects that has just
		// become empty and that the push is about to use. That is git's.
		m.run("/bin/sh", "-ec", "cd "+work+"; git add .; git -c gc.auto=0 commit -q -m x; for i in 1 2 3 4 5; do git push -q "+url+" HEAD:main && exit; done; exit 1")
	}
	idle := func() { // the monitor adopts what has left the group
		t.Helper()
		eventually(t, "no child of the monitor but its core", func() bool { return len(childrenOf(s.pid)) == 1 })
	}
	for range 50 {
		push()
	}
	// A git gc that starts while another one runs does nothing. So there is one
	// more push, without others at the same time.
	idle()
	push()
	idle()
	if loose, _ := filepath.Glob(repo + "/objects/17/*"); len(loose) > 1 {
		t.Errorf("%d loose objects in one directory", len(loose))
	}
	if packs, _ := filepath.Glob(repo + "/objects/pack/*.pack"); len(packs) == 0 {
		t.Error("no pack")
	}
	for _, name := range []string{"gc.pid", "gc.log"} { // it has not exited, or has written something
		if _, err := os.Stat(repo + "/" + name); err == nil {
			t.Errorf("%s is there", name)
		}
	}
	if got := m.run(git, "-C", repo, "rev-list", "--count", "main"); got != "51" {
		t.Errorf("%s commits", got)
	}
	m.run(git, "-C", repo, "fsck", "--strict")
	w.stop()
	s.stop()
	for _, msg := range []string{"leftover processes terminated", "orphaned process terminated", "command failed"} {
		if r := s.find(msg); len(r) > 0 {
			t.Errorf("%v", r)
		}
	}
}
