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

// collected are contents of files whose objects' names begin with 17: git takes
// their number for that of all loose objects by 256.
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

// TestInteropGitGC: pushes leave git gc behind, in the background and in a
// session of its own, and it runs to its end: after fifty pushes to a repository
// that is to be collected at each of them, everything is packed.
func TestInteropGitGC(t *testing.T) {
	t.Parallel()
	git := need(t, "git", "apt-get install git")
	backend := need(t, "git-http-backend", "apt-get install git")
	m := newMachine(t)
	work, repo := m.here("/var/tmp/work"), m.here("/var/git/r.git")
	m.run(git, "init", "-q", "--bare", "-b", "main", repo)
	m.run(git, "init", "-q", "-b", "main", work)
	// What a push brings while git gc looks is too many loose objects to it, of
	// which it complains, and then rests for a day, but for gc.logExpiry.
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
	idle := func() { // what has left its group is the monitor's child too
		t.Helper()
		eventually(t, "no child of the monitor but its core", func() bool { return len(childrenOf(s.pid)) == 1 })
	}
	for range 50 {
		push()
	}
	// Whichever came while another one was at work had nothing to do. So there
	// is one push more, whose own is alone.
	idle()
	push()
	idle()
	if loose, _ := filepath.Glob(repo + "/objects/17/*"); len(loose) > 1 {
		t.Errorf("%d loose objects in one directory", len(loose))
	}
	if packs, _ := filepath.Glob(repo + "/objects/pack/*.pack"); len(packs) == 0 {
		t.Error("no pack")
	}
	for _, name := range []string{"gc.pid", "gc.log"} { // it has not ended, or complains
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
	for _, msg := range []string{"leftovers ended", "process left its group and is ended", "command failed"} {
		if r := s.find(msg); len(r) > 0 {
			t.Errorf("%v", r)
		}
	}
}
