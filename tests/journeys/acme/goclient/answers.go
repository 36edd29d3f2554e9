package main

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"os/exec"

	"golang.org/x/crypto/acme"
)

// answer puts up what the challenge asks for and returns what takes it down again.
func answer(client *acme.Client, name string, offered *acme.Challenge) (func(), error) {
	switch offered.Type {
	case "http-01":
		return answerHTTP(client, offered.Token)
	case "dns-01":
		return answerDNS(client, name, offered.Token)
	case "tls-alpn-01":
		return answerALPN(client, name, offered.Token)
	}
	return nil, fmt.Errorf("%s is not known here", offered.Type)
}

func answerHTTP(client *acme.Client, token string) (func(), error) {
	body, err := client.HTTP01ChallengeResponse(token)
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(*address, *httpPort))
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc(client.HTTP01ChallengePath(token), func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(body))
	})
	go func() { _ = http.Serve(listener, mux) }()
	return func() { _ = listener.Close() }, nil
}

func answerDNS(client *acme.Client, name, token string) (func(), error) {
	value, err := client.DNS01ChallengeRecord(token)
	if err != nil {
		return nil, err
	}
	record := "_acme-challenge." + name
	if out, err := exec.Command(*hook, "set", record, value).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("the hook: %w: %s", err, out)
	}
	return func() { _ = exec.Command(*hook, "clear", record).Run() }, nil
}

func answerALPN(client *acme.Client, name, token string) (func(), error) {
	certificate, err := client.TLSALPN01ChallengeCert(token, name)
	if err != nil {
		return nil, err
	}
	config := &tls.Config{Certificates: []tls.Certificate{certificate}, NextProtos: []string{acme.ALPNProto}}
	listener, err := tls.Listen("tcp", net.JoinHostPort(*address, *tlsPort), config)
	if err != nil {
		return nil, err
	}
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer connection.Close()
				_ = connection.(*tls.Conn).Handshake()
			}()
		}
	}()
	return func() { _ = listener.Close() }, nil
}
