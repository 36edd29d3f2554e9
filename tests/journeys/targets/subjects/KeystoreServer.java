// A small HTTPS server that serves one entry of a keystore, as Tomcat and Jetty do, and loads it again on SIGHUP.
//
//     java KeystoreServer FOLDER
//
// FOLDER/server.properties says port, keystore, type, password and alias. A reload that fails keeps what is served.
// /check is an error as long as the entry cannot be loaded; /show is the first line's keystore and the second line's
// alias of FOLDER/show, certificate and key in PEM.

import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpsConfigurator;
import com.sun.net.httpserver.HttpsServer;
import java.io.IOException;
import java.io.InputStream;
import java.net.InetSocketAddress;
import java.net.Socket;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyStore;
import java.security.Principal;
import java.security.PrivateKey;
import java.security.cert.X509Certificate;
import java.util.Base64;
import java.util.List;
import java.util.Properties;
import java.util.concurrent.Callable;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.Executors;
import javax.net.ssl.KeyManager;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLEngine;
import javax.net.ssl.X509ExtendedKeyManager;
import sun.misc.Signal;

public class KeystoreServer {
    private final Path folder;

    KeystoreServer(Path folder) {
        this.folder = folder;
    }

    public static void main(String[] arguments) throws Exception {
        new KeystoreServer(Path.of(arguments[0])).serve();
    }

    private Properties settings() throws Exception {
        Properties read = new Properties();
        try (InputStream stream = Files.newInputStream(folder.resolve("server.properties"))) {
            read.load(stream);
        }
        return read;
    }

    private char[] password() throws Exception {
        return settings().getProperty("password").toCharArray();
    }

    private KeyStore entry(String path, String alias) throws Exception {
        char[] password = password();
        KeyStore whole = KeyStore.getInstance(settings().getProperty("type"));
        try (InputStream stream = Files.newInputStream(Path.of(path))) {
            whole.load(stream, password);
        }
        KeyStore alone = KeyStore.getInstance("PKCS12");
        alone.load(null, null);
        alone.setKeyEntry("entry", whole.getKey(alias, password), password, whole.getCertificateChain(alias));
        return alone;
    }

    private X509ExtendedKeyManager load() throws Exception {
        KeyManagerFactory keys = KeyManagerFactory.getInstance("SunX509");
        Properties settings = settings();
        keys.init(entry(settings.getProperty("keystore"), settings.getProperty("alias")), password());
        return (X509ExtendedKeyManager) keys.getKeyManagers()[0];
    }

    private void serve() throws Exception {
        int port = Integer.parseInt(settings().getProperty("port"));
        HttpsServer server = HttpsServer.create(new InetSocketAddress("127.0.0.1", port), 0);
        Loaded loaded = new Loaded();
        loaded.add(load());
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(new KeyManager[] {loaded}, null, null);
        server.setHttpsConfigurator(new HttpsConfigurator(context));
        server.createContext("/", exchange -> answer(exchange, () -> "ok"));
        server.createContext("/check", exchange -> answer(exchange, () -> "ok " + load()));
        server.createContext("/show", exchange -> answer(exchange, this::show));
        server.setExecutor(Executors.newCachedThreadPool());
        Signal.handle(new Signal("HUP"), signal -> {
            try {
                loaded.add(load());
            } catch (Exception problem) {
                System.err.println("reload failed: " + problem);
            }
        });
        server.start();
        Files.writeString(folder.resolve("server.pid"), String.valueOf(ProcessHandle.current().pid()));
    }

    private static void answer(HttpExchange exchange, Callable<String> answer) throws IOException {
        int status = 200;
        String text;
        try {
            text = answer.call();
        } catch (Exception problem) {
            status = 500;
            text = "check failed: " + problem;
        }
        exchange.sendResponseHeaders(status, text.length());
        exchange.getResponseBody().write(text.getBytes());
        exchange.close();
    }

    private String show() throws Exception {
        List<String> which = Files.readAllLines(folder.resolve("show"));
        KeyStore entry = entry(which.get(0), which.get(1));
        return pem("CERTIFICATE", entry.getCertificate("entry").getEncoded())
            + pem("PRIVATE KEY", entry.getKey("entry", password()).getEncoded());
    }

    private static String pem(String label, byte[] der) {
        String text = Base64.getMimeEncoder(64, "\n".getBytes()).encodeToString(der);
        return "-----BEGIN " + label + "-----\n" + text + "\n-----END " + label + "-----\n";
    }
}

/** What was loaded, time after time. A handshake asks for an alias and then for key and chain, which belong together. */
class Loaded extends X509ExtendedKeyManager {
    private final List<X509ExtendedKeyManager> all = new CopyOnWriteArrayList<>();

    void add(X509ExtendedKeyManager newest) {
        all.add(newest);
    }

    @Override
    public String chooseEngineServerAlias(String type, Principal[] issuers, SSLEngine engine) {
        int newest = all.size() - 1;
        String alias = all.get(newest).chooseEngineServerAlias(type, issuers, engine);
        return alias == null ? null : newest + ":" + alias;
    }

    @Override
    public X509Certificate[] getCertificateChain(String alias) {
        return of(alias).getCertificateChain(alias.split(":", 2)[1]);
    }

    @Override
    public PrivateKey getPrivateKey(String alias) {
        return of(alias).getPrivateKey(alias.split(":", 2)[1]);
    }

    private X509ExtendedKeyManager of(String alias) {
        return all.get(Integer.parseInt(alias.split(":", 2)[0]));
    }

    @Override
    public String chooseServerAlias(String type, Principal[] issuers, Socket socket) {
        return null;
    }

    @Override
    public String[] getServerAliases(String type, Principal[] issuers) {
        return null;
    }

    @Override
    public String[] getClientAliases(String type, Principal[] issuers) {
        return null;
    }

    @Override
    public String chooseClientAlias(String[] types, Principal[] issuers, Socket socket) {
        return null;
    }
}
