//go:build interop

package e2e

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/onewake/onewake/perms"
)

// These tests load the test page in a browser, through nginx.

// envScreenshot names a directory for the pictures of the documents.
const envScreenshot = "ONEWAKE_SCREENSHOT"

func TestInteropBrowser(t *testing.T) {
	need(t, "nginx", installNginx)
	tidy := need(t, "tidy", "apt-get install tidy")
	b := openBrowser(t)
	l := launch{args: []string{"-forwarded", "X-Real-IP,X-Forwarded-Proto"}}
	workers, peer := "", perms.UserName(os.Geteuid())
	if os.Geteuid() == 0 {
		// As in production: two ordinary users, and the web server has access
		// through the socket's group.
		workers, peer = "user www-data;", "www-data"
		l.cred = nobody(t)
		l.cred.Gid = credential(t, peer).Gid
	}
	s := l.start(t)
	addr := proxy(t, s.addr, workers)
	url := "http://" + addr

	// The usual request: the page shows the peer, and loads nothing that its
	// policy forbids.
	b.open(url + "/")
	if got := b.requests(); len(got) != 1 {
		t.Errorf("the page loads other resources: %q", got)
	}
	if got := b.complaints(); len(got) > 0 {
		t.Errorf("messages of the browser: %q", got)
	}
	rows := b.text("[...document.querySelectorAll('dt')].map(e => e.innerText + ': ' + e.nextElementSibling.innerText + '\\n').join('')")
	for _, want := range []string{"Listener: unix:" + s.path + "\n", "Socket file: " + splitList(s.await("start")["socket"])[0] + "\n",
		fmt.Sprintf("Peer: uid %d %s\n", credential(t, peer).Uid, peer), "REMOTE_ADDR: 127.0.0.1\n"} {
		if !strings.Contains(rows, want) {
			t.Errorf("no %q in the page:\n%s", want, rows)
		}
	}

	// A request full of scripts, and a browser that ignores the policy.
	const evil = `<script>document.title='evil'</script><img src="/x" onerror="document.title='evil'">`
	b.call("Page.setBypassCSP", `{"enabled":true}`)
	b.call("Network.setExtraHTTPHeaders", fmt.Sprintf(`{"headers":{"X-Evil":%q,"X-Forwarded-Host":%[1]q,"Cookie":%[1]q}}`, evil))
	escaped := "%3Cscript%3Edocument.title='evil'%3C/script%3E%3Cimg%20src=%22/x%22%20onerror=%22document.title='evil'%22%3E"
	b.open(url + "/" + escaped + "?" + escaped)
	if got := b.text("document.title"); got != "onewake works" {
		t.Errorf("title %q", got)
	}
	if got := b.text(`String(document.querySelectorAll("script,img,[onerror],[src],[href]").length)`); got != "0" {
		t.Errorf("%s elements that do not belong to the page", got)
	}
	shown := b.text("document.body.innerText")
	for _, want := range []string{"HTTP_X_EVIL\n" + evil, "PATH_INFO\n/" + evil, "HTTP_COOKIE\n" + evil, "X-Forwarded-Host\n" + evil, "QUERY_STRING\n%3Cscript%3E"} {
		if !strings.Contains(shown, want) {
			t.Errorf("no %q in the page:\n%s", want, shown)
		}
	}

	// The HTML is valid, through nginx and also without it, when there is more
	// to fix.
	for _, w := range []*server{via(s, addr), s} {
		for _, target := range []string{"/", "/" + escaped + "%01%FF%E2%80%AE?'\""} {
			check := exec.Command(tidy, "-errors", "-quiet")
			check.Stdin = strings.NewReader(w.get(target, "Accept: text/html", "X-Evil: "+evil).body)
			if out, err := check.CombinedOutput(); err != nil || len(out) > 0 {
				t.Errorf("tidy, %s: %v\n%s", target, err, out)
			}
		}
	}

	// On a telephone and on a desktop, in light and dark mode.
	paper := make(map[string]color.Gray)
	for _, scheme := range []string{"light", "dark"} {
		b.call("Emulation.setEmulatedMedia", fmt.Sprintf(`{"features":[{"name":"prefers-color-scheme","value":%q}]}`, scheme))
		for _, width := range []int{360, 1280} {
			b.resize(width)
			if got := b.text(`String(document.documentElement.scrollWidth)`); got != fmt.Sprint(width) {
				t.Errorf("%s: a page of %s pixels in a window of %d", scheme, got, width)
			}
			if got := b.text(tooWide); got != "" {
				t.Errorf("%s, %d pixels: does not fit: %s", scheme, width, got)
			}
			img := b.picture()
			if img.Bounds().Dx() != width || img.Bounds().Dy() < 400 {
				t.Errorf("%s: a picture of %v", scheme, img.Bounds())
			}
			paper[scheme] = color.GrayModel.Convert(img.At(2, 2)).(color.Gray)
			if n := marks(img, paper[scheme]); n < 2000 {
				t.Errorf("%s, %d pixels: %d pixels are not as bright as the paper", scheme, width, n)
			}
		}
	}
	if paper["light"].Y < 200 || paper["dark"].Y > 60 {
		t.Errorf("paper: %v", paper)
	}
	s.stop()
	if dir := os.Getenv(envScreenshot); dir != "" {
		takePictures(t, b, dir)
	}
}

// tooWide returns the elements that are cut off or wider than their parent.
const tooWide = `[...document.querySelectorAll("body *")].filter(e => e.scrollWidth > e.clientWidth + 1 && e.clientWidth > 0 ||
	e.getBoundingClientRect().right > document.documentElement.clientWidth + 1).map(e => e.tagName + " " + e.textContent).join("\n")`

// marks counts the pixels that differ from the background.
func marks(img image.Image, paper color.Gray) (n int) {
	for y := range img.Bounds().Dy() {
		for x := range img.Bounds().Dx() {
			if d := int(color.GrayModel.Convert(img.At(x, y)).(color.Gray).Y) - int(paper.Y); d > 64 || d < -64 {
				n++
			}
		}
	}
	return n
}

// takePictures writes the pictures of the documents. They show the usual
// installation with its path and its users, which exist only in a mount
// namespace for this onewake.
func takePictures(t *testing.T, b *browser, dir string) {
	needRoot(t, "it mounts")
	www := credential(t, "www-data").Gid
	place := newDir(t, &syscall.Credential{Uid: 2000, Gid: www})
	names := newDir(t, nil)
	for name, text := range map[string]string{
		"passwd": fmt.Sprintf("root:x:0:0::/:/bin/sh\nwww:x:%d:%[1]d::/:\nonewake:x:2000:2000::/:\n", www),
		"group":  fmt.Sprintf("root:x:0:\nwww:x:%d:onewake\nonewake:x:2000:\n", www),
	} {
		if err := os.WriteFile(names+"/"+name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s := launch{raw: true, before: []string{"unshare", "--mount", "/bin/sh", "-ec", `
mount -t tmpfs none /run
mkdir /run/onewake
mount --bind "$1" /run/onewake
mount --bind "$2/passwd" /etc/passwd
mount --bind "$2/group" /etc/group
shift 2
exec setpriv --reuid 2000 --regid 2000 --groups ` + fmt.Sprint(www) + ` "$@"`, "sh", place, names},
		args: []string{"-socket-group", "www", "-forwarded", "X-Real-IP,X-Forwarded-Proto,X-Request-Id"}}.start(t)
	b.call("Network.setExtraHTTPHeaders", `{"headers":{}}`)
	b.open("http://" + proxy(t, "unix:"+place+"/onewake.sock", "user www-data;"))
	b.resize(720)
	for _, scheme := range []string{"light", "dark"} {
		b.call("Emulation.setEmulatedMedia", fmt.Sprintf(`{"features":[{"name":"prefers-color-scheme","value":%q}]}`, scheme))
		// Up to the variables, which differ from browser to browser.
		img := b.picture()
		height, err := strconv.ParseFloat(b.text(`String(document.querySelectorAll("h2")[3].getBoundingClientRect().top - 20)`), 64)
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		enc := png.Encoder{CompressionLevel: png.BestCompression}
		if err := enc.Encode(&out, fewColours(img, image.Rect(0, 0, 720, int(height)))); err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(dir, "testpage-"+scheme+".png")
		if err := os.WriteFile(name, out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %d bytes", name, out.Len())
	}
	s.signal(syscall.SIGTERM)
	s.wait()
}

// fewColours crops a picture and gives it a palette of at most 256 colours.
func fewColours(img image.Image, part image.Rectangle) image.Image {
	p := image.NewPaletted(part, nil)
	for y := part.Min.Y; y < part.Max.Y; y++ {
		for x := part.Min.X; x < part.Max.X; x++ {
			c := color.RGBAModel.Convert(img.At(x, y))
			if len(p.Palette) < 256 && !slices.Contains(p.Palette, c) {
				p.Palette = append(p.Palette, c)
			}
			p.Set(x, y, c)
		}
	}
	return p
}

// browser is headless Chromium, controlled by its DevTools protocol over two
// pipes: JSON messages that end in NUL.
type browser struct {
	t       *testing.T
	to      *os.File
	from    *bufio.Reader
	session string
	last    int
	events  []message // since the page was opened
}

type message struct {
	ID     int             `json:"id"`
	Method string          `json:"method"`
	Params json.RawMessage `json:"params"`
	Result json.RawMessage `json:"result"`
	Error  json.RawMessage `json:"error"`
}

func openBrowser(t *testing.T) *browser {
	t.Helper()
	chromium := need(t, "chromium", "apt-get install chromium")
	home := newDir(t, nil)
	fromUs, to, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	from, toUs, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	b := &browser{t: t, to: to, from: bufio.NewReader(from)}
	// Its sandbox does not work for root; it loads only our page.
	cmd := exec.Command(chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
		"--no-first-run", "--no-proxy-server", "--disable-background-networking", "--disable-component-update", "--disable-extensions", "--disable-sync",
		"--force-color-profile=srgb", "--lang=en", "--user-data-dir="+home, "--remote-debugging-pipe", "about:blank")
	cmd.Env = []string{"PATH=" + commandPath, "HOME=" + home, "LANG=C.UTF-8", "TZ=UTC"}
	cmd.ExtraFiles = []*os.File{fromUs, toUs}
	// With a process group of its own all its processes can be killed.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var otherLines bytes.Buffer
	cmd.Stdout, cmd.Stderr = &otherLines, &otherLines
	cmd.WaitDelay = time.Second
	err = cmd.Start()
	fromUs.Close()
	toUs.Close()
	if err != nil {
		t.Fatal(err)
	}
	from.SetReadDeadline(time.Now().Add(10 * patience))
	t.Cleanup(func() {
		to.Close() // this terminates it
		exited := make(chan struct{})
		go func() { cmd.Wait(); close(exited) }()
		select {
		case <-exited:
		case <-time.After(patience):
		}
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		<-exited
		from.Close()
		if t.Failed() {
			t.Logf("chromium: %s", &otherLines)
		}
	})
	var target struct{ TargetID string }
	b.result("Target.createTarget", `{"url":"about:blank"}`, &target)
	var attached struct{ SessionID string }
	b.result("Target.attachToTarget", fmt.Sprintf(`{"targetId":%q,"flatten":true}`, target.TargetID), &attached)
	b.session = attached.SessionID
	for _, domain := range []string{"Page", "Network", "Log", "Runtime", "Audits"} {
		b.call(domain+".enable", "{}")
	}
	return b
}

// call calls a method of the DevTools protocol and waits for its result.
func (b *browser) call(method, params string) json.RawMessage {
	b.t.Helper()
	b.last++
	m := map[string]any{"id": b.last, "method": method, "params": json.RawMessage(params)}
	if b.session != "" {
		m["sessionId"] = b.session
	}
	text, err := json.Marshal(m)
	if err == nil {
		_, err = b.to.Write(append(text, 0))
	}
	if err != nil {
		b.t.Fatalf("%s: %v", method, err)
	}
	for {
		m := b.next(method)
		if m.ID != b.last {
			continue
		}
		if m.Error != nil {
			b.t.Fatalf("%s: %s", method, m.Error)
		}
		return m.Result
	}
}

// next reads a message and keeps events.
func (b *browser) next(why string) (m message) {
	b.t.Helper()
	text, err := b.from.ReadBytes(0)
	if err == nil {
		err = json.Unmarshal(text[:len(text)-1], &m)
	}
	if err != nil {
		b.t.Fatalf("chromium, %s: %v", why, err)
	}
	if m.Method != "" {
		b.events = append(b.events, m)
	}
	return m
}

func (b *browser) result(method, params string, to any) {
	b.t.Helper()
	if err := json.Unmarshal(b.call(method, params), to); err != nil {
		b.t.Fatalf("%s: %v", method, err)
	}
}

// open loads a page and waits until it is complete.
func (b *browser) open(url string) {
	b.t.Helper()
	b.events = nil
	var r struct{ ErrorText string }
	text, _ := json.Marshal(map[string]string{"url": url})
	if b.result("Page.navigate", string(text), &r); r.ErrorText != "" {
		b.t.Fatalf("%s: %s", url, r.ErrorText)
	}
	loaded := func(m message) bool { return m.Method == "Page.loadEventFired" }
	for !slices.ContainsFunc(b.events, loaded) {
		b.next("waiting for " + url)
	}
}

// text evaluates a string or a promise of a string.
func (b *browser) text(expression string) string {
	b.t.Helper()
	params, _ := json.Marshal(map[string]any{"expression": expression, "awaitPromise": true})
	var r struct {
		Result           struct{ Value string }
		ExceptionDetails json.RawMessage
	}
	if b.result("Runtime.evaluate", string(params), &r); r.ExceptionDetails != nil {
		b.t.Fatalf("%s: %s", expression, r.ExceptionDetails)
	}
	return r.Result.Value
}

// requests returns the URLs that the page has loaded.
func (b *browser) requests() (urls []string) {
	for _, m := range b.events {
		var p struct{ Request struct{ URL string } }
		if m.Method == "Network.requestWillBeSent" && json.Unmarshal(m.Params, &p) == nil {
			urls = append(urls, p.Request.URL)
		}
	}
	return urls
}

// complaints returns the browser's console messages and issues, such as a style
// that the policy forbids.
func (b *browser) complaints() (list []string) {
	for _, m := range b.events {
		switch m.Method {
		case "Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Audits.issueAdded":
			list = append(list, string(m.Params))
		}
	}
	return list
}

func (b *browser) resize(width int) {
	b.t.Helper()
	b.call("Emulation.setDeviceMetricsOverride", fmt.Sprintf(`{"width":%d,"height":800,"deviceScaleFactor":1,"mobile":false}`, width))
}

// picture returns a picture of the whole page.
func (b *browser) picture() image.Image {
	b.t.Helper()
	var r struct{ Data string }
	b.result("Page.captureScreenshot", `{"format":"png","captureBeyondViewport":true}`, &r)
	data, err := base64.StdEncoding.DecodeString(r.Data)
	if err != nil {
		b.t.Fatal(err)
	}
	img, err := png.Decode(bytes.NewReader(data))
	if err != nil {
		b.t.Fatal(err)
	}
	return img
}
