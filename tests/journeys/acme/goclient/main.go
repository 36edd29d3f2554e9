// A small ACME client on golang.org/x/crypto/acme, the library under cert-manager. Its module also pins a Pebble that is
// newer than Debian's, for the tests to play against.
//
// It keeps everything in one folder: account.pem, key.pem, chain.pem, and order.json with what was asked for.
package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/crypto/acme"
)

const deadline = 50 * time.Second

var (
	state     = flag.String("state", "", "folder of the account and its certificate")
	directory = flag.String("directory", "", "URL of the server's directory")
	caFile    = flag.String("ca", "", "roots of the server's HTTPS, in PEM")
	kid       = flag.String("kid", "", "key id of the external account")
	hmac      = flag.String("hmac", "", "key of the external account, in base64url")
	address   = flag.String("address", "127.0.0.1", "where challenges are answered")
	httpPort  = flag.String("http", "80", "port of http-01")
	tlsPort   = flag.String("tls", "443", "port of tls-alpn-01")
	hook      = flag.String("hook", "", "program that sets and clears TXT records")
	challenge = flag.String("challenge", "http-01", "type of challenge")
)

// order is what a renewal has to know.
type order struct {
	Names     []string
	Challenge string
}

func main() {
	flag.Parse()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	if err := run(ctx, flag.Arg(0), flag.Args()[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", flag.Arg(0), err)
		os.Exit(1)
	}
}

func run(ctx context.Context, command string, names []string) error {
	client, err := connect()
	if err != nil {
		return err
	}
	switch command {
	case "issue":
		if err := register(ctx, client); err != nil {
			return fmt.Errorf("register: %w", err)
		}
		return issue(ctx, client, order{names, *challenge})
	case "renew":
		var last order
		text, err := os.ReadFile(place("order.json"))
		if err != nil {
			return err
		}
		if err := json.Unmarshal(text, &last); err != nil {
			return err
		}
		return issue(ctx, client, last)
	case "revoke":
		return revoke(ctx, client)
	case "newkey":
		return newKey(ctx, client)
	}
	return fmt.Errorf("is no command")
}

func place(name string) string { return filepath.Join(*state, name) }

// connect returns a client with the account's key, which is made when there is none.
func connect() (*acme.Client, error) {
	roots, err := os.ReadFile(*caFile)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(roots)
	key, err := loadKey("account.pem")
	if os.IsNotExist(err) {
		key, err = makeKey("account.pem")
	}
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}
	agent := "certctl-tests-goclient"
	return &acme.Client{Key: key, DirectoryURL: *directory, HTTPClient: &http.Client{Transport: transport}, UserAgent: agent}, nil
}

func register(ctx context.Context, client *acme.Client) error {
	account := &acme.Account{Contact: []string{"mailto:ada@example.com"}}
	if *kid != "" {
		key, err := base64.RawURLEncoding.DecodeString(*hmac)
		if err != nil {
			return err
		}
		account.ExternalAccountBinding = &acme.ExternalAccountBinding{KID: *kid, Key: key}
	}
	_, err := client.Register(ctx, account, acme.AcceptTOS)
	if err == acme.ErrAccountAlreadyExists {
		return nil
	}
	return err
}

func issue(ctx context.Context, client *acme.Client, wanted order) error {
	made, err := client.AuthorizeOrder(ctx, identifiers(wanted.Names))
	if err != nil {
		return fmt.Errorf("order: %w", err)
	}
	for _, url := range made.AuthzURLs {
		if err := authorize(ctx, client, url, wanted.Challenge); err != nil {
			return fmt.Errorf("authorization %s: %w", url, err)
		}
	}
	if made, err = client.WaitOrder(ctx, made.URI); err != nil {
		return fmt.Errorf("wait: %w", err)
	}
	key, err := makeKey("key.pem")
	if err != nil {
		return err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, request(wanted.Names), key)
	if err != nil {
		return err
	}
	chain, _, err := client.CreateCertFromOrder(ctx, made, csr, true)
	if err != nil {
		return fmt.Errorf("finalize: %w", err)
	}
	var text []byte
	for _, der := range chain {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	note, err := json.Marshal(wanted)
	if err != nil {
		return err
	}
	if err := os.WriteFile(place("order.json"), note, 0o600); err != nil {
		return err
	}
	return os.WriteFile(place("chain.pem"), text, 0o600)
}

func identifiers(names []string) []acme.AuthzID {
	var found []acme.AuthzID
	for _, name := range names {
		kind := "dns"
		if net.ParseIP(name) != nil {
			kind = "ip"
		}
		found = append(found, acme.AuthzID{Type: kind, Value: name})
	}
	return found
}

func request(names []string) *x509.CertificateRequest {
	wanted := &x509.CertificateRequest{}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			wanted.IPAddresses = append(wanted.IPAddresses, ip)
		} else {
			wanted.DNSNames = append(wanted.DNSNames, name)
		}
	}
	return wanted
}

func authorize(ctx context.Context, client *acme.Client, url, kind string) error {
	asked, err := client.GetAuthorization(ctx, url)
	if err != nil || asked.Status == acme.StatusValid {
		return err
	}
	for _, offered := range asked.Challenges {
		if offered.Type != kind {
			continue
		}
		withdraw, err := answer(client, asked.Identifier.Value, offered)
		if err != nil {
			return err
		}
		defer withdraw()
		if _, err := client.Accept(ctx, offered); err != nil {
			return err
		}
		_, err = client.WaitAuthorization(ctx, url)
		return err
	}
	return fmt.Errorf("%s is not offered", kind)
}

func revoke(ctx context.Context, client *acme.Client) error {
	text, err := os.ReadFile(place("chain.pem"))
	if err != nil {
		return err
	}
	leaf, _ := pem.Decode(text)
	return client.RevokeCert(ctx, nil, leaf.Bytes, acme.CRLReasonSuperseded)
}

// newKey writes the new key only when the server has it.
func newKey(ctx context.Context, client *acme.Client) error {
	key, err := makeKey("account-next.pem")
	if err != nil {
		return err
	}
	if err := client.AccountKeyRollover(ctx, key); err != nil {
		return err
	}
	return os.Rename(place("account-next.pem"), place("account.pem"))
}

func makeKey(name string) (crypto.Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return key, os.WriteFile(place(name), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
}

func loadKey(name string) (crypto.Signer, error) {
	text, err := os.ReadFile(place(name))
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	return key.(crypto.Signer), nil
}
