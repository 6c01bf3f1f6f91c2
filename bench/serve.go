//go:build linux

package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
)

// serve is the process "serve": a bare net/http handler on a Unix socket, as
// anybody would write it.
//
//	serve page SOCKET FILE    answers with a file's bytes, read once
//	serve upload SOCKET WC    copies the body into a pipe of wc -c
func serve(args []string) error {
	if len(args) < 3 {
		return errors.New("serve: too few arguments")
	}
	var h http.HandlerFunc
	switch args[0] {
	case "page":
		page, err := os.ReadFile(args[2])
		if err != nil {
			return err
		}
		h = func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			w.Write(page)
		}
	case "upload":
		h = upload(args[2])
	default:
		return fmt.Errorf("serve: no %q", args[0])
	}
	l, err := net.Listen("unix", args[1])
	if err != nil {
		return err
	}
	return http.Serve(l, h)
}

func upload(wc string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		cmd := exec.Command(wc, "-c")
		cmd.Stdout = w
		in, err := cmd.StdinPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		io.Copy(in, r.Body)
		in.Close()
		cmd.Wait()
	}
}
