//go:build interop

package e2e

import (
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fastcgiParams installs nginx's fastcgi_params where nginx looks for it.
func (m *machine) fastcgiParams() {
	m.t.Helper()
	b, err := os.ReadFile(stockParams(m.t))
	if err != nil {
		m.t.Fatal(err)
	}
	m.write("/usr/local/etc/nginx/fastcgi_params", string(b), 0o644)
}

func TestInteropPHP(t *testing.T) {
	t.Parallel()
	need(t, "curl", "apt-get install curl")
	m := newMachine(t)
	m.replace = []string{"/usr/local/bin/php-cgi", need(t, "php-cgi", "apt-get install php-cgi")}
	p := readRecipe(t, "php-cgi.md")
	m.follow(p)
	m.fastcgiParams()
	app, files := m.service("onewake_app"), m.service("onewake_php")
	addr := m.startSite("")
	m.console(p)
	ask(t, addr, "POST", "/app/hello", "name=%3Cb%3E", "Content-Type: application/x-www-form-urlencoded").want(t, 200, "Hello <b>\n")
	ask(t, addr, "GET", "/app/x%20y", "").want(t, 404, "no /x y\n")
	ask(t, addr, "GET", "/app", "").want(t, 404, "no \n")
	ask(t, addr, "GET", "/application", "").wantStatus(t, 404)
	app.await("request", "target", "/app")
	if r := app.find("request", "target", "/application"); len(r) > 0 {
		t.Errorf("another path reaches the application: %v", r)
	}
	// Which file is run is the web server's to say, and no path leads to another.
	m.write("/usr/local/www/pages/picture.png", "<?php echo 'run';", 0o644)
	for _, path := range []string{"/picture.png/x.php", "/time.php/x.php", "/../app/index.php", "/x.php"} {
		if a := ask(t, addr, "GET", path, ""); a.status < 400 {
			t.Errorf("%s: %d %q", path, a.status, a.body)
		}
	}
	app.stop()
	files.stop()

	// With -scripts a file that is not executable is not found, and one with #!
	// is.
	dir := m.here("/usr/local/www/pages")
	with := change(t, m.read("/usr/local/www/pages/time.php"), "<?php", "#!"+need(t, "php-cgi", "apt-get install php-cgi")+"\n<?php")
	m.write("/usr/local/www/pages/with.php", with, 0o555)
	s := m.service("onewake_scripts", "onewake_scripts_scripts="+dir, "onewake_scripts_env=REDIRECT_STATUS=200")
	ask(t, s.addr, "GET", "/time.php", "").wantStatus(t, 404)
	if a := ask(t, s.addr, "GET", "/with.php?q=x", ""); a.status != 200 || !strings.HasSuffix(a.body, " /with.php x\n") {
		t.Errorf("%d %q", a.status, a.body)
	}
	s.stop()
}

func TestInteropForm(t *testing.T) {
	t.Parallel()
	need(t, "curl", "apt-get install curl")
	m := newMachine(t)
	p := readRecipe(t, "form.md")
	m.follow(p)
	s := m.service("onewake_message")
	addr := m.startSite("")
	m.console(p)
	post := func(values url.Values) *answer {
		return ask(t, addr, "POST", "/message", values.Encode(), "Content-Type: application/x-www-form-urlencoded")
	}
	spooled := func() (texts []string) {
		names, _ := filepath.Glob(m.here("/var/spool/message/*"))
		for _, name := range names {
			b, _ := os.ReadFile(name)
			texts = append(texts, string(b))
			os.Remove(name)
		}
		return texts
	}
	spooled()
	if a := ask(t, addr, "GET", "/message?sent=yes", ""); a.status != 200 || !strings.Contains(a.body, "<p>Thank you.</p>") {
		t.Errorf("%d %q", a.status, a.body)
	}
	// A value is never evaluated.
	const evil = "\n.\n\"'`id`$(id) $HOME * \\n %s -n\r\n\xff"
	a := post(url.Values{"name": {"Bob B"}, "text": {evil}, "PATH": {"/evil"}, "IFS": {"x"}})
	a.wantStatus(t, 303)
	wantField("Location", "/message?sent=yes")(t, a)
	if got := spooled(); len(got) != 1 || got[0] != "From: Bob B\n\n"+evil+"\n" {
		t.Errorf("%q", got)
	}
	for _, name := range []string{"", "a\nBcc: x", "$(id)", "-n", "<script>"} {
		a := post(url.Values{"name": {name}, "text": {"</textarea><script>"}})
		if a.status != 200 || !strings.Contains(a.body, "letters and blanks only") || strings.Contains(a.body, "<script>") {
			t.Errorf("%q: %d %s", name, a.status, a.body)
		}
	}
	post(url.Values{"name": {"Bob"}, "text": {strings.Repeat("x", 64<<10)}}).wantStatus(t, 413)
	post(url.Values{"name": {"Bob"}, "text": {"a\x00b"}}).wantStatus(t, 400)
	if got := spooled(); len(got) > 0 {
		t.Errorf("%q", got)
	}
	s.stop()
}

// The first line arrives while the command waits, through nginx, over HTTP and
// over FastCGI.
func TestInteropStreaming(t *testing.T) {
	t.Parallel()
	need(t, "curl", "apt-get install curl")
	m := newMachine(t)
	meeting := meet(t, m.onewake)
	m.replace = []string{"sleep 1", "read x <" + meeting.dir + "/go"}
	p := readRecipe(t, "streaming.md")
	m.follow(p)
	m.fastcgiParams()
	steps, log := m.service("onewake_steps"), m.service("onewake_log")
	addr := m.startSite("")
	meeting.release(3)
	m.console(p)
	for _, path := range []string{"/steps", "/log"} {
		c := dial(t, addr).send("%s", text11("GET", path))
		for _, step := range []string{"fetch\n", "build\n", "install\n"} {
			c.until(step) // in a chunk of its own
			meeting.release(1)
		}
		c.until("0\r\n\r\n")
	}
	// CGI output needs no flag.
	path := m.write("/usr/local/bin/cgi", "#!/bin/sh\nprintf 'Content-Type: text/plain\\n\\nfirst\\n'; read x <"+meeting.dir+"/go; echo last\n", 0o755)
	steps.stop()
	steps = m.service("onewake_steps", "onewake_steps_command="+path, "onewake_steps_cgi=YES", "onewake_steps_flags='-script-name /steps'")
	c := dial(t, addr).send("%s", text11("GET", "/steps"))
	c.until("first\n")
	meeting.release(1)
	c.until("last\n")
	steps.stop()
	log.stop()
}

func TestInteropAnswerNow(t *testing.T) {
	t.Parallel()
	need(t, "curl", "apt-get install curl")
	m := newMachine(t)
	p := readRecipe(t, "answer-now.md")
	m.follow(p)
	s := m.service("onewake_rebuild")
	addr := m.startSite("")
	m.console(p)
	done := m.here("/var/log/rebuild/done")
	eventually(t, "the job has been done", func() bool { return countLines(done) == 1 })
	s.stop()

	// Both ways, with a job that waits.
	meeting := meet(t, m.onewake)
	m.write("/usr/local/libexec/rebuild-site", "#!/bin/sh\ncd "+meeting.dir+"\necho $$ >told; read x <go; echo done >told\n", 0o555)
	for _, command := range []string{"rebuild", "rebuild-itself"} {
		s := m.service("onewake_rebuild", "onewake_rebuild_command="+m.here("/usr/local/libexec/"+command))
		// The next request on the same connection does not wait for the job.
		c := dial(t, addr).send("%s", text11("POST", "/rebuild", "Content-Length: 0"))
		pid := meeting.pids(1)
		c.answer("POST").want(t, 202, "accepted\n")
		a := c.send("%s", text11("POST", "/rebuild", "Content-Length: 0")).answer("POST")
		if a.status != 503 || a.header.Get("Retry-After") == "" {
			t.Errorf("%s: %d while the job runs", command, a.status)
		}
		// The job does not end when the client disconnects.
		c.Close()
		meeting.release(1)
		if got := meeting.line(); got != "done" {
			t.Errorf("%s: the job says %q", command, got)
		}
		awaitGone(t, pid...)
		eventually(t, "the slot is free", func() bool {
			a := ask(t, addr, "POST", "/rebuild", "")
			return a.status == 202
		})
		meeting.pids(1)
		meeting.release(1)
		s.stop() // which waits for the job
		if got := meeting.line(); got != "done" {
			t.Errorf("%s: the job says %q", command, got)
		}
	}
}

func TestInteropFossil(t *testing.T) {
	t.Parallel()
	need(t, "curl", "apt-get install curl")
	m := newMachine(t)
	fossil := need(t, "fossil", "apt-get install fossil")
	m.replace = []string{"/usr/local/bin/fossil", fossil}
	p := readRecipe(t, "fossil.md")
	m.follow(p)
	s := m.service("onewake_fossil", `onewake_fossil_flags="$onewake_fossil_flags -drain 1ms"`)
	addr := m.startSite("")
	m.console(p)

	// A push, and the hook after the answer. For fossil a minute has passed
	// since the last one.
	work := m.here("/var/tmp/work")
	m.mkdir("/var/tmp/work", 0o755)
	m.run("/bin/sh", "-ec", "cd "+work+`; fossil() { USER=admin command `+fossil+` "$@"; }
fossil open --nosync `+m.here("/var/tmp/clone.fossil")+`
fossil settings autosync off
echo text >file
fossil add file
fossil commit --user-override admin -m 'a subject to be seen'
fossil push --once http://admin:correct-horse@`+strings.TrimPrefix(addr, "tcp:")+"/project")
	if a := ask(t, addr, "GET", "/project/timeline", ""); a.status != 200 || !strings.Contains(a.body, "a subject to be seen") {
		t.Errorf("%d %s", a.status, a.body)
	}
	repository := m.here("/var/fossil/project.fossil")
	m.run(fossil, "sql", "-R", repository, "DELETE FROM config WHERE name = 'backoffice'")
	ask(t, addr, "GET", "/project/timeline", "").wantStatus(t, 200)
	eventually(t, "the hook has run", func() bool { return countLines(m.here("/var/fossil/published")) == 1 })

	// The next one waits for a minute after its answer, until the service
	// stops.
	ask(t, addr, "GET", "/project/timeline", "").wantStatus(t, 200)
	s.stop()
	s.await("orphaned process terminated")
}
