//go:build interop

package e2e

import (
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestInteropGit(t *testing.T) {
	t.Parallel()
	git := need(t, "git", "apt-get install git")
	need(t, "git-http-backend", "apt-get install git")
	need(t, "openssl", "apt-get install openssl")
	m := newMachine(t)
	p := readRecipe(t, "git.md")
	m.follow(p.only("git over HTTP"))
	os.Chmod(m.here("/usr/local/etc/nginx/git.htpasswd"), 0o644) // its group could not be set
	s := m.service("onewake_git")
	addr := m.startSite("")
	m.console(p.only("git over HTTP"))
	m.run(git, "-C", m.here("/var/git/example.git"), "config", "core.logAllRefUpdates", "true")
	m.follow(p.only("Who pushed"))
	m.console(p.only("Who pushed"))
	if reflog := m.read("/var/git/example.git/logs/refs/heads/main"); !strings.Contains(reflog, " alice <alice@http.127.0.0.1> ") {
		t.Errorf("reflog %s", reflog)
	}

	at := strings.TrimPrefix(addr, "tcp:")

	// The request and the answer are larger than what is kept in memory.
	large := strings.Repeat("0123456789abcdef", 1<<17)
	m.write("/var/tmp/one/large", large, 0o644)
	one := m.here("/var/tmp/one")
	m.run(git, "-C", one, "add", ".")
	m.run(git, "-C", one, "-c", "core.compression=0", "commit", "-q", "-m", "large")
	push := []string{git, "-C", one, "-c", "core.compression=0", "-c", "pack.compression=0", "-c", "http.postBuffer=100000", "push", "-q"}
	if out, err := m.command(m.onewake, append(push, "http://"+at+"/git/example.git", "HEAD:main")...).CombinedOutput(); err == nil {
		t.Errorf("a push without a password: %s", out)
	}
	if out, err := m.command(m.onewake, append(push, "http://alice:wrong@"+at+"/git/example.git", "HEAD:main")...).CombinedOutput(); err == nil {
		t.Errorf("push with a wrong password: %s", out)
	}
	m.run(append(push, "http://alice:correct%20horse@"+at+"/git/example.git", "HEAD:main")...)
	if got, want := m.run(git, "-C", m.here("/var/git/example.git"), "rev-parse", "main"), m.run(git, "-C", one, "rev-parse", "HEAD"); got != want {
		t.Errorf("main is %s, want %s", got, want)
	}
	m.run(git, "clone", "-q", "http://"+at+"/git/example.git", m.here("/var/tmp/two"))
	if b, err := os.ReadFile(m.here("/var/tmp/two/large")); err != nil || string(b) != large {
		t.Errorf("cloned %d bytes, %v", len(b), err)
	}
	// No spelling of the path avoids the password.
	for _, path := range []string{"git-receive-pack", "git%2Dreceive-pack", "git-receive-pac%6B", "./git-receive-pack", "x/../git-receive-pack", "%2Fgit-receive-pack", "/git-receive-pack"} {
		a := ask(t, addr, "POST", "/git/example.git/"+path, "0000", "Content-Type: application/x-git-receive-pack-request")
		if a.status != 401 {
			t.Errorf("POST of %s: %d", path, a.status)
		}
	}
	ask(t, addr, "POST", "/git/another.git/git-receive-pack", "0000").wantStatus(t, 401)
	s.await("request", "target", "/git/example.git/git-receive-pack", "status", "200", "client", "127.0.0.1")
	s.stop()
}

// With gitolite a user has the access that its configuration gives.
func TestInteropGitolite(t *testing.T) {
	t.Parallel()
	git := need(t, "git", "apt-get install git")
	need(t, "openssl", "apt-get install openssl")
	need(t, "gitolite", "apt-get install gitolite3")
	m := newMachine(t)
	m.replace = []string{"/usr/local/libexec/gitolite/", "/usr/share/gitolite3/"}
	p := readRecipe(t, "git.md")
	m.follow(p)
	htpasswd := m.here("/usr/local/etc/nginx/git.htpasswd")
	m.run("/bin/sh", "-c", `printf 'bob:%s\n' "$(openssl passwd -6 x)" >>`+htpasswd)
	os.Chmod(htpasswd, 0o644) // its group could not be set
	s := m.service("onewake_gitolite")
	addr := m.startSite("")
	m.console(p.only("gitolite"))
	url := func(user, repo string) string {
		return "http://" + user + "@" + strings.TrimPrefix(addr, "tcp:") + "/gitolite/" + repo
	}
	fails := func(args ...string) {
		t.Helper()
		if out, err := m.command(m.onewake, append([]string{git}, args...)...).CombinedOutput(); err == nil {
			t.Errorf("%q: %s", args, out)
		}
	}
	fails("ls-remote", url("bob:x", "gitolite-admin.git"))
	fails("ls-remote", url("bob:wrong", "testing.git"))
	m.run(git, "ls-remote", url("bob:x", "testing.git"))

	// A repository of bob that alice may read.
	admin := m.here("/var/tmp/admin")
	f, err := os.OpenFile(admin+"/conf/gitolite.conf", os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(f, "\nrepo of-bob\n    RW+ = bob\n    R = alice\n")
	f.Close()
	m.run(git, "-C", admin, "commit", "-q", "-a", "-m", "of-bob")
	m.run(git, "-C", admin, "push", "-q", url("alice:correct%20horse", "gitolite-admin.git"), "HEAD:master")
	fails("-C", admin, "push", "-q", url("alice:correct%20horse", "of-bob.git"), "HEAD:master")
	m.run(git, "-C", admin, "push", "-q", url("bob:x", "of-bob.git"), "HEAD:master")
	m.run(git, "ls-remote", url("alice:correct%20horse", "of-bob.git"))
	s.stop()
}

func TestInteropCgit(t *testing.T) {
	t.Parallel()
	git := need(t, "git", "apt-get install git")
	needFile(t, "/usr/lib/cgit/cgit.cgi", "apt-get install cgit")
	need(t, "curl", "apt-get install curl")
	m := newMachine(t)
	m.replace = []string{"alias /usr/local/www/cgit/", "alias /usr/share/cgit/"}
	p := readRecipe(t, "cgit.md")
	m.follow(p)
	m.mkdir("/var/git", 0o755)
	repo := m.here("/var/git/example.git")
	m.run(git, "init", "-q", "--bare", "-b", "main", repo)
	m.run(git, "clone", "-q", repo, m.here("/var/tmp/one"))
	m.run(git, "-C", m.here("/var/tmp/one"), "commit", "-q", "--allow-empty", "-m", "a subject to be seen")
	m.run(git, "-C", m.here("/var/tmp/one"), "push", "-q", "origin", "HEAD:main")
	if m.onewake != nil { // of another user, as on the page git.md
		if err := exec.Command("chown", "-R", "www-data", repo).Run(); err != nil {
			t.Fatal(err)
		}
	}
	s := m.service("onewake_cgit")
	addr := m.startSite("")
	m.console(p)
	if a := ask(t, addr, "GET", "/cgit/", ""); a.status != 200 || !strings.Contains(a.body, "href='/cgit/example.git/'") || !strings.Contains(a.body, "cgit-static/cgit.css") {
		t.Errorf("%d\n%s", a.status, a.body)
	}
	if a := ask(t, addr, "GET", "/cgit/example.git/log/", ""); a.status != 200 || !strings.Contains(a.body, "a subject to be seen") {
		t.Errorf("%d\n%s", a.status, a.body)
	}
	ask(t, addr, "GET", "/cgit-static/cgit.cgi", "").wantStatus(t, 403)
	s.stop()
}

func TestInteropWSGI(t *testing.T) {
	t.Parallel()
	need(t, "python3", "apt-get install python3")
	need(t, "curl", "apt-get install curl")
	m := newMachine(t)
	p := readRecipe(t, "wsgi.md")
	addr := m.behind(p)
	// Not owned by the user, as in production.
	dir := m.here("/usr/local/www/hello/")
	os.Chmod(dir, 0o555)
	defer os.Chmod(dir, 0o755)
	s := m.service("onewake")
	m.console(p)
	ask(t, addr, "GET", "/hello", "").want(t, 200, "Hello 127.0.0.1\n")
	body := strings.Repeat("x", 2<<20)
	ask(t, addr, "POST", "/hello", body, "Content-Type: text/x").want(t, 201, "2097152 bytes of text/x\n")
	ask(t, addr, "POST", "/hello", chunk(body), "Content-Type: text/x", "Transfer-Encoding: chunked").
		want(t, 201, "2097152 bytes of text/x\n")
	ask(t, addr, "GET", "/a%20b", "").want(t, 404, "no /a b\n")
	if r := s.find("stderr"); len(r) > 0 {
		t.Errorf("%v", r)
	}
	if a := ask(t, addr, "GET", "/broken", ""); a.status != 500 || strings.Contains(a.body, "details") {
		t.Errorf("%d %q", a.status, a.body)
	}
	s.until("RuntimeError in the log", func() bool {
		return slices.ContainsFunc(s.findLocked("stderr", nil), func(r record) bool { return strings.Contains(r["text"], "RuntimeError: details for the log") })
	})
	// hello.py was compiled once, and not by a request.
	if names, _ := filepath.Glob(dir + "__pycache__/*"); len(names) != 1 {
		t.Errorf("compiled: %s", names)
	}
	s.stop()
}

func TestInteropStatusPage(t *testing.T) {
	t.Parallel()
	need(t, "curl", "apt-get install curl")
	m := newMachine(t)
	m.replace = []string{"limit=90", "limit=101"} // however full this machine is
	p := readRecipe(t, "status.md")
	m.follow(p)
	s := m.service("onewake_status")
	addr := m.startSite("")
	m.console(p)
	ask(t, addr, "POST", "/status", "body").wantStatus(t, 200)
	ask(t, addr, "GET", "/statusquo", "").wantStatus(t, 404)
	const path = "/usr/local/libexec/status"
	m.write(path, change(t, m.read(path), "limit=101", "limit=0"), 0o555)
	if a := ask(t, addr, "GET", "/status", ""); a.status != 500 || strings.Contains(a.body, "full") {
		t.Errorf("%d %q", a.status, a.body)
	}
	if r := s.await("stderr"); !strings.Contains(r["text"], "nearly full: /") {
		t.Errorf("%v", r)
	}
	s.stop()
}

func TestInteropWebhook(t *testing.T) {
	t.Parallel()
	need(t, "python3", "apt-get install python3")
	need(t, "curl", "apt-get install curl")
	git := need(t, "git", "apt-get install git")
	need(t, "openssl", "apt-get install openssl")
	m := newMachine(t)
	p := readRecipe(t, "webhook.md")
	m.follow(p)
	s := m.service("onewake_webhook")
	addr := m.startSite("")
	m.console(p)

	spooled := func() []string {
		names, _ := filepath.Glob(m.here("/var/spool/webhook/*"))
		return names
	}
	for _, name := range spooled() {
		os.Remove(name)
	}
	secret, err := os.ReadFile(m.here("/usr/local/etc/webhook.secret"))
	if err != nil || len(secret) < 64 {
		t.Fatal(len(secret), err)
	}
	sign := func(key, body string) string {
		h := hmac.New(sha256.New, []byte(key))
		h.Write([]byte(body))
		return fmt.Sprintf("%x", h.Sum(nil))
	}
	key := strings.TrimSpace(string(secret))
	body := `{"ref": "refs/heads/main"}` + strings.Repeat("\x00\xff\n", 1<<19)
	for _, wrong := range [][]string{
		nil,
		{"X-Hub-Signature-256: sha256=" + sign("another", body)},
		{"X-Hub-Signature-256: sha256=" + sign(key, body+" ")},
		{"X-Hub-Signature-256: sha256=" + sign("", body)},
		{"X-Hub-Signature-256: " + sign(key, body)},
		{"X-Hub-Signature-256: sha256=" + sign(key, body)[:63]},
		{"X-Hub-Signature-256: sha256=\xff\xfe"},
		{"X-Hub-Signature: sha256=" + sign(key, body)},
		{"X_Hub_Signature_256: sha256=" + sign(key, body)},
	} {
		ask(t, addr, "POST", "/webhook", body, wrong...).want(t, 403, "wrong signature\n")
	}
	ask(t, addr, "GET", "/webhook", "").wantStatus(t, 405)
	if names := spooled(); len(names) > 0 {
		t.Errorf("spooled %s", names)
	}
	right := "X-Hub-Signature-256: sha256=" + sign(key, body)
	for range 2 {
		ask(t, addr, "POST", "/webhook", body, right).want(t, 202, "accepted\n")
	}
	ask(t, addr, "POST", "/webhook", chunk(body), right, "Transfer-Encoding: chunked").want(t, 202, "accepted\n")
	names := spooled()
	if len(names) != 1 {
		t.Fatalf("spooled %s", names)
	}
	if b, _ := os.ReadFile(names[0]); string(b) != body {
		t.Errorf("spooled %d bytes", len(b))
	}
	// If the secret is lost nobody gets access.
	os.WriteFile(m.here("/usr/local/etc/webhook.secret"), nil, 0o600)
	if a := ask(t, addr, "POST", "/webhook", body, "X-Hub-Signature-256: sha256="+sign("", body)); a.status != 502 {
		t.Errorf("without a secret: %d %q", a.status, a.body)
	}
	s.await("stderr")
	if r := s.find("stderr"); len(r) != 1 || !strings.Contains(r[0]["text"], "is empty") {
		t.Errorf("stderr: %v", r)
	}
	s.stop()

	// The job of cron.
	site := m.here("/usr/local/www/site")
	repo := m.here("/var/tmp/site.git")
	m.run(git, "init", "-q", "--bare", "-b", "main", repo)
	m.run(git, "clone", "-q", repo, m.here("/var/tmp/one"))
	commit := func() {
		m.run(git, "-C", m.here("/var/tmp/one"), "commit", "-q", "--allow-empty", "-m", "x")
		m.run(git, "-C", m.here("/var/tmp/one"), "push", "-q", "origin", "HEAD:main")
	}
	commit()
	m.run(git, "clone", "-q", repo, site)
	commit()
	m.run(m.here("/usr/local/libexec/deploy"))
	if names := spooled(); len(names) > 0 {
		t.Errorf("still spooled: %s", names)
	}
	if got, want := m.run(git, "-C", site, "rev-parse", "HEAD"), m.run(git, "-C", repo, "rev-parse", "main"); got != want {
		t.Errorf("the site is at %s, want %s", got, want)
	}
}

func TestInteropFromShell2http(t *testing.T) {
	t.Parallel()
	need(t, "curl", "apt-get install curl")
	m := newMachine(t)
	p := readRecipe(t, "from-shell2http.md")
	addr := m.behind(p)
	s := m.service("onewake")
	m.console(p)
	ask(t, addr, "POST", "/echo", "a body\n").want(t, 200, "a body\n")
	if a := ask(t, addr, "GET", "/ps", ""); a.status != 200 || !strings.Contains(a.body, "ps aux") {
		t.Errorf("%d %q", a.status, a.body)
	}
	ask(t, addr, "POST", "/date", "").wantStatus(t, 405)
	ask(t, addr, "GET", "/elsewhere", "").wantStatus(t, 404)
	for query, status := range map[string]int{
		"from=1&to=2": 200, "to=2&from=1": 200, "": 400, "from=1": 400, "from=1&to=": 400, "from=1&to=2&to=3": 200, "from=1,2&to=3": 400,
		"from=1&to=;id": 400, "from=%31&to=2": 200, "from=1&to=" + url.QueryEscape("2\n3"): 400, "xfrom=1&to=2": 400,
	} {
		a := ask(t, addr, "GET", "/add?"+query, "")
		if a.status != status || status == 200 && a.body != "1 to 2\n" {
			t.Errorf("%s: %d %q", query, a.status, a.body)
		}
	}
	s.stop()
	// One command with pipes, as on the page.
	s = m.service("onewake_pipe", `onewake_pipe_command="/bin/sh -c 'ps aux | head'"`)
	if a := ask(t, s.addr, "GET", "/", ""); a.status != 200 || strings.Count(a.body, "\n") != 10 {
		t.Errorf("%d %q", a.status, a.body)
	}
	s.stop()
}
