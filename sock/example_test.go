package sock_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"

	"github.com/onewake/onewake/perms"
	"github.com/onewake/onewake/sock"
)

func ExampleParse() {
	for _, s := range []string{
		"unix:/var/run/hello/hello.sock",
		"tcp6:[::1]:080",
		"/tmp/sock",
		"unix:@hello",
	} {
		a, err := sock.Parse(s)
		if err != nil {
			fmt.Println(errors.Is(err, sock.ErrBadAddr), err)
			continue
		}
		fmt.Println(a.Network, a.Address)
	}
	// Output:
	// unix /var/run/hello/hello.sock
	// tcp6 [::1]:80
	// true address "/tmp/sock": a path needs its network, use unix:/tmp/sock
	// true address "unix:@hello": abstract sockets have no permissions, use unix:/path
}

// Check reports what Listen would do, for a flag such as -check.
func ExampleConfig_Check() {
	dir, err := os.MkdirTemp("", "ow")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	a := sock.Addr{Network: sock.Unix, Address: dir + "/hello.sock"}
	c := sock.Config{Perms: perms.Spec{Mode: perms.Set(0o660)}}

	_, err = c.Check(context.Background(), a)
	fmt.Println("mode 0700:", err)

	if err := os.Chmod(dir, 0o777); err != nil {
		log.Fatal(err)
	}
	_, err = c.Check(context.Background(), a)
	var e *sock.Error
	if errors.As(err, &e) && e.Cause == sock.DirWritable {
		fmt.Printf("remove the bits %04o from the mode of the directory: %v\n", e.Mode, e.Path == dir)
	}
	fmt.Println("unsafe directory:", errors.Is(err, sock.ErrUnsafeDir))
	// Output:
	// mode 0700: <nil>
	// remove the bits 0022 from the mode of the directory: true
	// unsafe directory: true
}
