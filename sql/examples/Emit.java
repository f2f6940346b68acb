// One transaction by JDBC: the change and its events.   java -cp postgresql.jar Emit.java
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.SQLException;
import org.postgresql.util.PSQLException;

public class Emit {
    public static void main(String[] arguments) throws SQLException {
        String url = "jdbc:postgresql://" + System.getenv("PGHOST") + ":" + System.getenv("PGPORT")
                + "/" + System.getenv("PGDATABASE");
        String user = System.getenv("PGUSER");
        try (Connection connection = DriverManager.getConnection(url, user, System.getenv("PGPASSWORD"))) {
            connection.setAutoCommit(false);
            pay(connection, 7);
            connection.commit(); // closing it without a commit rolls back
        } catch (PSQLException error) {
            // A rule of the outbox: error.getServerErrorMessage().getConstraint() names it.
            throw error;
        }
    }

    static void pay(Connection connection, int order) throws SQLException {
        String key = "order-" + order;
        try (PreparedStatement pay = connection.prepareStatement(
                "update orders set state = 'paid' where id = ?")) {
            pay.setInt(1, order);
            pay.executeUpdate();
        }
        try (PreparedStatement emit = connection.prepareStatement(
                "select relay.emit(?, ?::json, key => ?, headers => ?::jsonb)")) {
            emit.setString(1, "orders.paid");
            emit.setString(2, "{\"order\": 7}");
            emit.setString(3, key);
            emit.setString(4, "{\"source\": \"shop\"}");
            emit.executeQuery();
        }
        try (PreparedStatement emit = connection.prepareStatement(
                "select relay.emit_bytes(?, ?, key => ?, idempotency_key => ?)")) {
            emit.setString(1, "orders.invoice");
            emit.setBytes(2, new byte[] {0, (byte) 0xff});
            emit.setString(3, key);
            emit.setString(4, "invoice-" + order);
            emit.executeQuery();
        }
        // many, by one statement
        try (PreparedStatement emit = connection.prepareStatement(
                "insert into relay.outbox (subject, key, payload)"
                + " select 'orders.line', ?, payload::json from unnest(?) as payload")) {
            String[] lines = {"{\"line\": 1}", "{\"line\": 2}", "{\"line\": 3}"};
            emit.setString(1, key);
            emit.setArray(2, connection.createArrayOf("text", lines));
            emit.executeUpdate();
        }
    }
}
